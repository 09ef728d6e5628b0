-- Signs of life of up to 100 sessions of one partition. A refresh never creates.
-- KEYS: 1 guard, 2 never
-- ARGV: for each session 1 entry, 2 number ('' whoever owns it), 3 ttl_ms ('' the session's own)
-- Returns: one of 'ok', 'replaced', 'closed', 'lost', 'ended <how many ms ago, at the least>' for each session

local function look_further(entry, given, alive)
  if alive and string.sub(alive, 1, 1) == '-' then -- guard: tombstone
    return 'ended ' .. int(TOMBSTONE_MS - redis.call('PTTL', base .. 'alive:' .. entry))
  end
  local part = split(entry)
  local channel, field = part[1], part[2] .. SEP .. part[3]
  local session = read_session(channel, field) -- guard: registry check of a refresh
  if not session then
    return 'lost'
  end
  local number = acting_number(given, session)
  if session.number > number then -- guard: order of connection numbers
    return 'replaced'
  end
  if session.number == number and session.closed > 0 then -- guard: mark of a closing connection
    return 'closed'
  end
  if alive == int(number) and session.holds == 0 and session.seen == 0 then -- nothing to write but the deadline
    redis.call('PEXPIREAT', base .. 'alive:' .. entry, int(now + session.ttl))
    redis.call('ZADD', base .. 'due', 'XX', int(now + session.ttl), entry)
    return 'ok'
  end
  session.number, session.closed, session.holds, session.seen = number, 0, 0, 0
  write_session(channel, field, session)
  keep_alive(entry, number, now + session.ttl)
  return 'ok'
end

local results = {}
for at = 1, #ARGV, 3 do
  local entry, given, ttl = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local alive = redis.call('GET', base .. 'alive:' .. entry)
  if alive and alive == given and ttl ~= '' then
    local deadline = int(now + tonumber(ttl))
    redis.call('PEXPIREAT', base .. 'alive:' .. entry, deadline)
    redis.call('ZADD', base .. 'due', 'XX', deadline, entry)
    results[#results + 1] = 'ok'
  else
    results[#results + 1] = look_further(entry, given, alive)
  end
end
return results
