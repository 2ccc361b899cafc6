"""What a person would rather look at than read: boards over a term as pictures.

`series` is the data of a picture, pure and tested against slow references; `figures` draws it with
matplotlib, which is imported when the first picture is drawn; `inline` writes the few hundred bytes
of SVG that a materialization can afford; `portraits` reads what they need and says which pictures
there are. No picture knows a student's id unless its caller asked for names.
"""
