--! keys: claims
-- A target has been told of an alert, or is to be told again; claim.lua says what is kept. What is done stays done.
--
-- ARGV  the target; the alert's number; when it is to be offered again, '' for never

local packed = redis.call('HGET', CLAIMS, ARGV[1])
if packed then
  local kept = cmsgpack.unpack(packed)
  for at = 2, #kept, 3 do
    if kept[at] == tonumber(ARGV[2]) and kept[at + 2] > 0 then
      kept[at + 1] = ARGV[3]
      if ARGV[3] == '' then
        kept[at + 2] = 0
      end
      redis.call('HSET', CLAIMS, ARGV[1], cmsgpack.pack(kept))
    end
  end
end
return 1
