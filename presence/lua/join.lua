-- Enter a channel, or refresh being there; announces `join` for the first session of a user, `update` for a
-- changed state or info.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 channel, 5 user, 6 session, 7 number ('' the session's own),
--       8 ttl_ms ('' the session's own), 9 ttl_ms of a new session, 10 user as JSON, 11 info ('' none),
--       12 state ('' keep), 13 over a tombstone (0/1), 14 info replaces (0/1), 15 max sessions, 16 max members,
--       17 show (show, settled: only if the partition is readable, ''), 18 cursor epoch, 19 cursor seq, 20 limit of members, 21 max bytes,
--       22 the state of the user's last presence comes back (0/1)
-- Returns: {'ok', announced 0/1 join/2 update, ttl_ms, number, {epoch, seq, recovered, count, truncated, texts} or {epoch, seq},
--           generation of a member whose last state only the archive knows or ''}
--          or {'settling'}, {'replaced'}, {'ended'}, {'sessions'}, {'members'}

local channel, user, id, number_given, ttl_given = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local info, state, show = ARGV[11], ARGV[12], ARGV[17] == 'show'
local field, entry = user .. SEP .. id, entry_of(channel, user, id)

if ARGV[17] ~= '' and not readable() then
  return {'settling'}
end

local session = read_session(channel, field)
local member = read_member(channel, user)
local announced, number = 0, nil

if session then
  number = acting_number(number_given, session)
  if session.number > number then -- guard: order of connection numbers
    return {'replaced'}
  end
else
  local alive = redis.call('GET', base .. 'alive:' .. entry)
  local tomb = alive and tonumber(string.match(alive, '^%-(%d+)$')) or nil
  number = number_given ~= '' and tonumber(number_given) or math.max((tomb or 0) + 1, now_us)
  if tomb and tomb > number then
    return {'replaced'}
  end
  if tomb and ARGV[13] == '0' then -- guard: tombstone
    redis.call('PEXPIRE', base .. 'alive:' .. entry, TOMBSTONE_MS) -- who goes on asking goes on being told
    return {'ended'}
  end
  if member and #member.ids >= tonumber(ARGV[15]) then
    return {'sessions'}
  end
  if not member and redis.call('ZCARD', base .. 'roster:' .. channel) >= tonumber(ARGV[16]) then
    return {'members'}
  end
  session = {ttl = tonumber(ARGV[9])}
end

session.ttl = ttl_given ~= '' and tonumber(ttl_given) or session.ttl
session.number, session.closed, session.holds, session.seen = number, 0, 0, 0
write_session(channel, field, session)
keep_alive(entry, number, now + session.ttl)

if not member then
  announced = 1
  local unclaimed = nil
  if state == '' and ARGV[22] == '1' then
    state = last_state(channel, user) or ''
    unclaimed = state == '' and '1' or nil
  end
  local generation = math.max(now_us, generation_given() + 1) -- guard: order of generations
  redis.call('HSET', KEYS[1], 'generation', int(generation))
  member = {
    generation = int(generation), since = int(now), ids = {id}, json = ARGV[10],
    info = info ~= '' and info or '{}', state = state ~= '' and state or '{}',
    unclaimed = unclaimed,
  }
  write_member(channel, user, member)
  redis.call('ZADD', base .. 'roster:' .. channel, 0, user)
  redis.call('ZADD', base .. 'channels', 0, channel)
  announce(channel, 'join', '', user, id, '',
    '"type":"join","user":' .. member.json .. ',"info":' .. member.info .. ',"state":' .. member.state,
    {'generation', member.generation, 'since', member.since})
else
  local known = false
  for _, other in ipairs(member.ids) do
    known = known or other == id
  end
  if not known then
    member.ids[#member.ids + 1] = id
  end
  local new_info = ARGV[14] == '1' and info ~= '' and info ~= member.info
  local new_state = state ~= '' and state ~= member.state
  member.info = new_info and info or member.info
  member.state = new_state and state or member.state
  local claimed = state ~= '' and member.unclaimed
  member.unclaimed = state == '' and member.unclaimed or nil
  if new_info or new_state or claimed or not known then
    write_member(channel, user, member)
  end
  if new_info or new_state then
    announced = 2
    announce(channel, 'update', '', user, id, member.state,
      '"type":"update","user":' .. member.json .. ',"state":' .. member.state
      .. (new_info and ',"info":' .. member.info or ''), {'generation', member.generation, 'since', member.since})
  end
end

local shown
if show then
  shown = view(channel, ARGV[18], ARGV[19], tonumber(ARGV[20]), tonumber(ARGV[21]), HISTORY_MS)
else
  local epoch, seq = position(channel, HISTORY_MS, false)
  shown = {epoch, int(seq)}
end
return {'ok', announced, int(session.ttl), int(number), shown, member.unclaimed and member.generation or ''}
