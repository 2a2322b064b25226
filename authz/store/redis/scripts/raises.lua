--! keys: raises
-- Every raise there has been, in order.

return redis.call('LRANGE', RAISES, 0, -1)
