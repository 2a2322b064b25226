--! keys: heads bodies requests
--! with: index
-- One reservation, as {id, head, body}, or nothing.
--
-- ARGV  'id' and the reservation's own, or 'request' and the enforcement point's; by that only where there is exactly one that is
--       pending or expired

local id = ARGV[2]
if ARGV[1] == 'request' then
  local prefix = request_prefix(id)
  local found = redis.call('ZRANGEBYLEX', REQUESTS, '[' .. prefix, '(' .. prefix .. '\255', 'LIMIT', 0, 2)
  if #found ~= 1 then
    return {}
  end
  id = found[1]:sub(#prefix + 1)
end
local head = redis.call('HGET', HEADS, id)
return head and {id, head, redis.call('HGET', BODIES, id)} or {}
