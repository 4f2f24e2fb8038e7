SELECT to_char(minute, 'HH24:MI') AS minute, shop, orders, amount FROM turnover ORDER BY 1, 2;

-- an ad-hoc read of the alerts, straight from Kafka
SELECT shop, to_char(max(minute), 'HH24:MI') AS minute, max(amount) AS amount, count(*) AS alerts
  FROM alerts_topic GROUP BY shop, minute ORDER BY 2, 1;

-- what does not fit is kept apart, with its reason
SELECT encode(payload, 'escape') AS payload, sqlstate, message FROM penstock.dead_letter;

SELECT pipe, state, events, lag_events, dead_letters FROM penstock.stat_pipe ORDER BY pipe DESC;
