-- What happens in the shop between the two pulls: a few rows of each kind.
UPDATE orders SET state = 'sent', note = 'left on ' || to_char(placed_at, 'YYYY-MM-DD')
 WHERE id % 100 = 7;
UPDATE products SET price = price + 0.50, attributes = attributes || '{"sale": true}'
 WHERE id % 10 = 3;
INSERT INTO customers VALUES
    (md5('the newest customer')::uuid, 'Zoë New', 'zoe@example.org', '{"street": "1 Quay"}',
     '{first order}', '2026-09-30Z');
WITH placed AS (
    INSERT INTO orders (customer_id, state, placed_at)
    VALUES (md5('the newest customer')::uuid, 'paid', '2026-09-30Z') RETURNING id)
INSERT INTO order_lines (order_id, line, product_id, quantity, price)
SELECT id, n, n, n, 9.99 FROM placed, generate_series(1, 3) AS n;
