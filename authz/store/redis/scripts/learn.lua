--! keys: lessons lesson_order meta
--! with: moment
-- Adds counts to what is known, as authz.quota.calibration.added does. A row is msgpack: sequence, when, cell, count, cell, count, ...
--
-- ARGV  the moment; the most samples; msgpack: for each lesson {name, cell, count, cell, count, ...}, cell 0 being the samples

local now = moment(ARGV[1])
for _, lesson in ipairs(cmsgpack.unpack(ARGV[3])) do
  local name, counts = lesson[1], {}
  local function add(cells, from)
    for at = from, #cells, 2 do
      counts[cells[at]] = (counts[cells[at]] or 0) + cells[at + 1]
    end
  end
  local kept = redis.call('HGET', LESSONS, name)
  if kept then
    add(cmsgpack.unpack(kept), 3)
  end
  add(lesson, 2)
  while (counts[0] or 0) > tonumber(ARGV[2]) do
    for cell, count in pairs(counts) do
      counts[cell] = math.floor(count / 2)
    end
  end
  local row = {redis.call('HINCRBY', META, 'lessons', 1), now}
  for cell, count in pairs(counts) do
    if count > 0 then
      row[#row + 1], row[#row + 2] = cell, count
    end
  end
  redis.call('HSET', LESSONS, name, cmsgpack.pack(row))
  redis.call('ZADD', LESSON_ORDER, row[1], name)
end
return 1
