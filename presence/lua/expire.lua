-- Notice silence: claim the sessions whose deadline has passed. Anybody may call it at any time; it does nothing
-- to a session that lives, that another call ended, or that is held back.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 mode (sweep, repeat, claim), 5 birth the node knows ('' none),
--       6 may make a birth (0/1), 7 name of a new birth, 8 schema, 9 partitions, 10 patience_ms, 11 hold_ms,
--       12 entries to pass over, 13 batch, then for claim 14 the entries
-- Returns: {'recent' | 'unborn'} or
--          {'ok', birth, replication id, settling 0/1, full 0/1, entries left in place, hold started 0/1,
--           for each ended session: lag_ms, left 0/1, user, session, last_seen}

local STALE_MS = 500   -- a stamp older than this means that nobody swept: Redis or every node stood still
local RECENT_MS = 40   -- sweeps by many nodes within this time are one
local MAX_HOLDS = 3    -- a session without a sign of life is held back this often
local UNLIMITED_MS = 1e13

local mode, known_birth = ARGV[4], ARGV[5]
local patience, hold_ms, skip, batch = tonumber(ARGV[10]), tonumber(ARGV[11]), tonumber(ARGV[12]), tonumber(ARGV[13])
local due = base .. 'due'
local saved = redis.call('HMGET', KEYS[1], 'birth', 'sweep', 'replid', 'hold_start', 'hold_ms', 'settling', 'clamp')
local birth, stamp = saved[1], tonumber(saved[2])

-- First of all, as all nodes sweep: one of them has just done so, and nothing is decided here.
if mode == 'sweep' and stamp and stamp <= now and now - stamp < RECENT_MS and birth == known_birth then
  return {'recent'}
end

local replid = replication_id()
if not birth and (mode == 'claim' or (known_birth == '' and ARGV[6] == '0')) then
  return {'unborn'}
end

-- The hold: after a stall those who may have had no chance to show life are not claimed at once.
-- Its length says how long the stall was; while an earlier hold still applies the longer one counts.
local hold_start, hold_length = tonumber(saved[4] or 0), tonumber(saved[5] or 0)
local hold_started = 0
local function start_hold(length)
  if now < hold_start + hold_ms and now >= hold_start then
    length = math.max(length, hold_length)
  end
  hold_start, hold_length, hold_started = now, length, 1
  redis.call('HSET', KEYS[1], 'hold_start', int(now), 'hold_ms', int(length))
end

if redis.call('EXISTS', due) == 1 then -- guard: hold
  if not stamp or stamp > now + STALE_MS or (saved[3] and saved[3] ~= replid) then
    start_hold(UNLIMITED_MS)
  elseif now - stamp > STALE_MS then
    start_hold(now - stamp)
  end
end

-- The first write of every claim is this one, so that a Redis out of memory refuses claims as it refuses joins.
if mode == 'claim' then
  redis.call('HSET', KEYS[1], 'claim', int(now))
else
  redis.call('HSET', KEYS[1], 'sweep', int(now), 'replid', replid)
end
if not birth then
  birth = ARGV[7]
  redis.call('HSET', KEYS[1], 'birth', birth, 'schema', ARGV[8], 'partitions', ARGV[9])
end
local settle_until = saved[6]
if known_birth ~= '' and known_birth ~= birth then
  settle_until = int(now + SETTLE_MS)
  redis.call('HSET', KEYS[1], 'settling', settle_until)
end

-- The clock stepped back: deadlines of before lie too far ahead and are pulled in, a part in each sweep.
local clamp = saved[7]
if stamp and stamp > now + STALE_MS and mode ~= 'claim' then
  clamp = '0'
end
if clamp and mode ~= 'claim' then
  local page = redis.call('ZSCAN', due, clamp, 'COUNT', 100)
  for at = 1, #page[2], 2 do
    local entry = page[2][at]
    local part = split(entry)
    local session = read_session(part[1], part[2] .. SEP .. part[3])
    if session and tonumber(page[2][at + 1]) > now + session.ttl then
      redis.call('ZADD', due, 'XX', int(now + session.ttl), entry)
      redis.call('PEXPIREAT', base .. 'alive:' .. entry, int(now + session.ttl))
    end
  end
  if page[1] == '0' then
    redis.call('HDEL', KEYS[1], 'clamp')
  else
    redis.call('HSET', KEYS[1], 'clamp', page[1])
  end
end

-- Whether the session must be given one more chance; then its deadline moves to the end of the hold.
local function held_back(channel, field, entry, session, deadline)
  local chance = hold_start + math.min(session.ttl, hold_ms)
  if now >= chance or hold_start > now then
    return false
  end
  if session.ttl > 4 * hold_length or session.holds >= MAX_HOLDS then -- guard: limit of the hold
    return false
  end
  if session.closed > hold_start then
    return false
  end
  session.seen = last_seen(session, deadline)
  session.holds = session.holds + 1
  write_session(channel, field, session)
  redis.call('ZADD', due, int(chance), entry)
  return true
end

local ended = {}
local function claim(entry)
  local part = split(entry)
  local channel, user, id = part[1], part[2], part[3]
  local field = user .. SEP .. id
  local score = redis.call('ZSCORE', due, entry)
  if not score then -- another was first
    return
  end
  local alive = redis.call('GET', base .. 'alive:' .. entry)
  local lives = tonumber(score) >= now or (alive and string.sub(alive, 1, 1) ~= '-')
  if lives then -- guard: liveness
    return
  end
  local session = read_session(channel, field)
  if not session then -- guard: registry check of a claim
    redis.call('ZREM', due, entry)
    return
  end
  local deadline = tonumber(score)
  if held_back(channel, field, entry, session, deadline) then
    return
  end
  local seen = last_seen(session, deadline)
  local left = end_session(channel, user, id, 'timeout', seen, nil) and 1 or 0
  for _, value in ipairs({int(now - deadline), left, user, id, int(seen)}) do
    ended[#ended + 1] = value
  end
end

local full, left = 0, 0
if mode == 'claim' then
  for at = 14, #ARGV do
    claim(ARGV[at])
  end
else
  local entries = redis.call('ZRANGEBYSCORE', due, '-inf', '(' .. int(now), 'WITHSCORES', 'LIMIT', skip, batch)
  for at = 1, #entries, 2 do
    if now - tonumber(entries[at + 1]) > patience then
      claim(entries[at])
    else
      redis.call('EXISTS', base .. 'alive:' .. entries[at]) -- makes Redis expire it now, and say so
    end
  end
  full = #entries == 2 * batch and 1 or 0
  for at = 1, #entries, 2 do
    local score = redis.call('ZSCORE', due, entries[at])
    if score and tonumber(score) < now then
      left = left + 1
    end
  end
end

local reply = {'ok', birth, replid, settling(settle_until) and 1 or 0, full, skip + left, hold_started}
for _, value in ipairs(ended) do
  reply[#reply + 1] = value
end
return reply
