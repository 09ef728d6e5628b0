-- Replace a member's state; announces `update` where it changed.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 channel, 5 user, 6 session, 7 number ('' the session's own), 8 state
-- Returns: {'ok', changed 0/1}, {'not_joined'} or {'replaced'}

local channel, user, id, state = ARGV[4], ARGV[5], ARGV[6], ARGV[8]
local session = read_session(channel, user .. SEP .. id)
local member = session and read_member(channel, user)
if not member then
  return {'not_joined'}
end
if ARGV[7] ~= '' and session.number > tonumber(ARGV[7]) then -- guard: order of connection numbers
  return {'replaced'}
end
local changed = member.state ~= state
if not changed and not member.unclaimed then
  return {'ok', 0}
end
member.state, member.unclaimed = state, nil
write_member(channel, user, member)
if not changed then
  return {'ok', 0}
end
announce(channel, 'update', '', user, id, state, '"type":"update","user":' .. member.json .. ',"state":' .. state,
  {'generation', member.generation, 'since', member.since})
return {'ok', 1}
