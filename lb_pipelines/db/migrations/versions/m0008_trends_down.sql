-- As it was before; the days are stale, because their leaders were those of materialized days.

COMMENT ON COLUMN lb.leaderboard_trends.rank_correlation IS NULL;
COMMENT ON COLUMN lb.leaderboard_trends.movement IS '{"top3", "entrants", "leavers", "climbers", "fallers"}';
COMMENT ON COLUMN lb.leaderboard_trends.leader_since IS 'First day of the unbroken row of materialized days on which this student led';
DROP INDEX lb.students_in_order;
SELECT lb.enter_change(
    institution_key, 'code', ARRAY['CLASS', 'SUBJECT', 'CAMPUS'],
    ARRAY['daily', 'weekly', 'monthly', 'term', 'all-time'], snapshots => false)
FROM lb.institutions;
