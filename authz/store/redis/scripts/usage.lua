--! keys: usage days deadlines bodies
--! with: index
-- What the usage report is made of.
--
-- ARGV  first and last day, both included
-- Answers {names, figures, bodies of what is pending}

local names = redis.call('ZRANGEBYLEX', DAYS, '[' .. ARGV[1], '[' .. ARGV[2] .. '\0\255')
local figures, bodies = {}, {}
for index, member in ipairs(names) do
  names[index] = member:sub(member:find('\0', 1, true) + 1)
  figures[index] = redis.call('HGET', USAGE, names[index])
end
for index, member in ipairs(redis.call('ZRANGE', DEADLINES, 0, -1)) do
  bodies[index] = redis.call('HGET', BODIES, id_of(member))
end
return {names, figures, bodies}
