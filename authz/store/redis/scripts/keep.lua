--! keys: belongings belonging_order belongings_due
-- A file or a batch is kept by its id; one that is known stays as it is.
--
-- ARGV  its id; its row; when it was made; whether somebody has to look after it, 1 or 0

if redis.call('HSETNX', BELONGINGS, ARGV[1], ARGV[2]) == 1 then
  redis.call('ZADD', BELONGING_ORDER, 0, ARGV[3] .. ARGV[1])
  if ARGV[4] == '1' then
    redis.call('ZADD', BELONGINGS_DUE, ARGV[3]:sub(1, 10), ARGV[1])
  end
end
return 1
