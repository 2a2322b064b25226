--! keys: lessons lesson_order
-- Lessons that changed after ARGV[1], in that order and ARGV[2] of them at most: name, row, name, row, ...

local found = {}
for _, name in ipairs(redis.call('ZRANGEBYSCORE', LESSON_ORDER, '(' .. ARGV[1], '+inf', 'LIMIT', 0, ARGV[2])) do
  found[#found + 1] = name
  found[#found + 1] = redis.call('HGET', LESSONS, name)
end
return found
