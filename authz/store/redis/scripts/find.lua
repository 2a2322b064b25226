--! keys: heads bodies requests
--! with: index
-- Reservations, each as {id, head, body}, or nothing.
--
-- ARGV  'id' and the reservations' own, or 'request' and the enforcement point's; by that one only where there is exactly one that
--       is pending or expired

local ids = {unpack(ARGV, 2)}
if ARGV[1] == 'request' then
  local prefix = request_prefix(ARGV[2])
  local found = redis.call('ZRANGEBYLEX', REQUESTS, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 2)
  if #found ~= 1 then
    return {{}}
  end
  ids = {found[1]:sub(#prefix + 1)}
end
local answers = {}
for at, id in ipairs(ids) do
  local head = redis.call('HGET', HEADS, id)
  answers[at] = head and {id, head, redis.call('HGET', BODIES, id)} or {}
end
return answers
