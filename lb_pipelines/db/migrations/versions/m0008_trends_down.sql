-- As it was before; the days are stale, because their leaders were those of materialized days.

COMMENT ON COLUMN lb.leaderboard_trends.rank_correlation IS NULL;
COMMENT ON COLUMN lb.leaderboard_trends.movement IS '{"top3", "entrants", "leavers", "climbers", "fallers"}';
COMMENT ON COLUMN lb.leaderboard_trends.leader_since IS 'First day of the unbroken row of materialized days on which this student led';
DROP INDEX lb.students_in_order;
UPDATE lb.materialized_days SET through_revision = 0
WHERE asset IN ('class_trends', 'subject_trends', 'campus_trends');
