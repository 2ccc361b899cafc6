-- Trends of all who are ranked on both days, leaders by the events, students in order.

COMMENT ON COLUMN lb.leaderboard_trends.rank_correlation IS 'Kendall''s tau-b of the ranks then and now, over the entries (top N) that were ranked then';
COMMENT ON COLUMN lb.leaderboard_trends.spearman_rho IS 'Spearman''s rho of the ranks then and now (mean ranks inside ties), over all students ranked both then and now';
COMMENT ON COLUMN lb.leaderboard_trends.movement IS '{"top3", "entrants", "leavers", "climbers", "fallers"}: entrants and leavers of the top N; the biggest climbers and fallers of all students ranked both then and now';
COMMENT ON COLUMN lb.leaderboard_trends.leader_since IS 'First day of the streak of calendar days, up to this one, on each of which the board exists by the events and this student leads it';

-- The students' order, by which ties are broken: who comes next is found without sorting all. CASE
-- instead of coalesce, which row level security keeps out of an index.
CREATE INDEX students_in_order ON lb.students (
    institution_key, (CASE WHEN order_key IS NULL THEN id ELSE order_key END), student_key);

-- Whatever was materialized before says less, or something else: it is stale.
SELECT lb.enter_change(
    institution_key, 'code', ARRAY['CLASS', 'SUBJECT', 'CAMPUS'],
    ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], snapshots => false)
FROM lb.institutions;
