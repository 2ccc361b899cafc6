"""Small kernels, each by itself; `test_kernels` says how to run them."""
