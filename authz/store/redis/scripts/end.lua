--! keys: counters raised heads bodies requests deadlines ended journal usage days told alerts meta
--! with: moment tally window index ending
-- Settles or voids one reservation.
--
-- ARGV  the moment; the reservation's id; 'settle' or 'void'; msgpack {amounts = {meter = amount}, usage = {input, cached, output}}
-- Answers as `finish`.

return finish(ARGV[2], ARGV[3], cmsgpack.unpack(ARGV[4]), moment(ARGV[1]))
