--! keys: alerts
-- Every alert that is kept: number, row, number, row, ...

return redis.call('HGETALL', ALERTS)
