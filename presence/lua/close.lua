-- Start the grace of a session whose client closed its connection: the deadline becomes the earlier one.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 channel, 2 user, 3 session, 4 number ('' the session's own), 5 grace_ms,
--       6 ms since the client was last heard ('' not known)
-- Returns: {'ok'}, {'not_joined'} or {'replaced'}

local channel, field, entry = ARGV[1], ARGV[2] .. SEP .. ARGV[3], entry_of(ARGV[1], ARGV[2], ARGV[3])
local session = read_session(channel, field)
if not session then
  return {'not_joined'}
end
local number = ARGV[4] ~= '' and tonumber(ARGV[4]) or session.number
if session.number > number then -- guard: order of connection numbers
  return {'replaced'}
end

local old = tonumber(redis.call('ZSCORE', base .. 'due', entry) or now)
-- Its last heartbeat may be on its way, and is kept out below. A close that is known already counts only if it was
-- this connection's: that of an older one may have come up again, with the join behind it rolled back.
local known = session.closed > 0 and session.number == number -- guard: closes that came up again
if ARGV[6] ~= '' and not known then -- guard: the last word
  old = math.max(old, now - tonumber(ARGV[6]) + session.ttl)
end
local deadline = math.min(old, now + tonumber(ARGV[5]))
session.number, session.closed = number, now
write_session(channel, field, session)
if deadline > now then
  -- The mark tells a refresh that is still on its way from this very connection to keep out.
  redis.call('SET', base .. 'alive:' .. entry, int(number) .. 'c', 'PXAT', int(deadline))
else
  redis.call('DEL', base .. 'alive:' .. entry)
end
redis.call('ZADD', base .. 'due', int(deadline), entry)
return {'ok'}
