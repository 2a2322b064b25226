-- Under which names a reservation is found. A head is msgpack: state, number, created, deadline, request id, then for each
-- counter its id, the bucket, and what was reserved and posted in it. States are numbered as in authz.store.redis.rows.

-- Text of any kind, so that what follows it cannot be taken for a part of it.
local function counted(text)
  return string.format('%08x', #text) .. text
end

local function request_prefix(request_id)
  return counted(request_id)
end

-- In the order of deadlines, and of the reservations' numbers where two have one deadline.
local function deadline_member(deadline, no, id)
  return string.format('%s%016.0f', deadline, no) .. id
end

local function id_of(member)
  return member:sub(36)
end
