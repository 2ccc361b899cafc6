-- What was made lately, whosever it is: what late_events_sensor asks of all institutions at once.

CREATE INDEX materialized_days_by_making ON lb.materialized_days USING brin (materialized_at)
    WITH (pages_per_range = 32);
-- An event was moved away from these days.
CREATE INDEX point_aggregates_moved ON lb.point_aggregates (institution_key)
    WHERE source_checksum = -1;
