CREATE EXTENSION penstock;
CREATE EXTENSION penstock_kafka;
CREATE SERVER kafka FOREIGN DATA WRAPPER kafka OPTIONS (bootstrap_servers :'servers');

-- the topic, and where its events are kept
CREATE FOREIGN TABLE orders_topic (id bigint, shop text, amount numeric, at timestamptz)
  SERVER kafka OPTIONS (topic 'orders', format 'json', start 'earliest');
CREATE TABLE orders (id bigint, shop text, amount numeric, at timestamptz) USING stream
  WITH (penstock.event_time = 'at', penstock.retention = '30 years');
CALL penstock.create_pipe('ingest', 'INSERT INTO orders SELECT id, shop, amount, at FROM orders_topic');

-- turnover by minute and shop, always up to date
CREATE MATERIALIZED VIEW turnover USING continuous AS
  SELECT date_bin('1 minute', at, '2000-01-01') AS minute, shop, count(*) AS orders, sum(amount) AS amount
    FROM orders GROUP BY minute, shop;

-- and a message back to Kafka when a shop's minute passes a limit; the first statement waits until the view shows the batch
CREATE FOREIGN TABLE alerts_topic (shop text, minute timestamptz, amount numeric,
    kafka_partition int OPTIONS (metadata 'partition'), kafka_offset bigint OPTIONS (metadata 'offset'))
  SERVER kafka OPTIONS (topic 'alerts', format 'json');
CALL penstock.create_pipe('alert', $$
  SELECT penstock.catch_up('turnover');
  INSERT INTO alerts_topic (shop, minute, amount)
  SELECT DISTINCT t.shop, t.minute, t.amount
    FROM orders o JOIN turnover t ON t.shop = o.shop AND t.minute = date_bin('1 minute', o.at, '2000-01-01')
   WHERE t.amount > 30000 $$, source => 'orders');
