-- Put before the scripts that change who is present: history, feed and bus move with the state or not at all.
-- ARGV[1] history_ms, ARGV[2] feed length (see `feed_on`), ARGV[3] bus (see `tell`): the same for all of them.

local HISTORY_MS, BUS = tonumber(ARGV[1]), ARGV[3]

local MOST_PAST = 4            -- earlier epochs whose logs are kept for those who have a position in the channel
local COUNTED = 12             -- how many times longer than its messages a user's own mailbox keeps their number

-- History lasts as long as the channel has members, and history_ms longer; while a position in it is kept for
-- somebody, keep (ms, else false) longer, and its numbers for ever.
local function retain(channel, keep)
  local meta, log = base .. 'meta:' .. channel, base .. 'log:' .. channel
  if redis.call('EXISTS', base .. 'roster:' .. channel) == 1 then
    redis.call('PERSIST', meta)
    redis.call('PERSIST', log)
    return
  end
  local lasting = math.max(HISTORY_MS, tonumber(keep or 0))
  redis.call('PEXPIREAT', log, int(now + lasting))
  if not keep then
    redis.call('PEXPIREAT', meta, int(now + lasting))
  elseif string.sub(channel, 1, 1) == '@' then
    redis.call('PEXPIREAT', meta, int(now + COUNTED * lasting))
  else
    redis.call('PERSIST', meta)
  end
end

-- Puts the log of an epoch that is over beside, for those who have not read it to its end.
local function set_aside(channel, epoch, held, last, keep)
  local meta, log, name = base .. 'meta:' .. channel, base .. 'log:' .. channel, base .. 'past:' .. channel .. SEP
  local past = {}
  for row in string.gmatch(redis.call('HGET', meta, 'past') or '', '[^,]+') do
    past[#past + 1] = row
  end
  past[#past + 1] = epoch .. ' ' .. int(held) .. ' ' .. int(last)
  if #past > MOST_PAST then
    redis.call('DEL', name .. string.match(table.remove(past, 1), '^%x+'))
  end
  redis.call('HSET', meta, 'past', table.concat(past, ','))
  if redis.call('EXISTS', log) == 1 then
    redis.call('RENAME', log, name .. epoch)
    redis.call('PEXPIRE', name .. epoch, keep)
  end
end

-- saved: epoch, seq, replid, base and keep of before. `base` counts the events of all earlier epochs.
local function begin_epoch(channel, saved, replid)
  local meta, epoch = base .. 'meta:' .. channel, new_epoch()
  local last, held = tonumber(saved[2] or 0), tonumber(saved[4] or 0)
  -- Before the log: out of memory must be an error of the whole script, not a refused log entry.
  redis.call('HSET', meta, 'epoch', epoch, 'seq', '1', 'replid', replid, 'base', int(held + last))
  if not saved[1] then
    redis.call('HSET', meta, 'born', epoch)
  elseif saved[5] then -- guard: what waits survives a new epoch
    set_aside(channel, saved[1], held, last, saved[5])
  end
  redis.call('DEL', base .. 'log:' .. channel)
  return epoch
end

-- The feed for back ends, of all channels but the server's own. Without any queue nobody misses what it forgets.
local function feed_on(channel, fields)
  local feed = base .. 'feed'
  if string.sub(channel, 1, 1) == '@' then
    return
  end
  -- How many entries it keeps, and how many at the most while queues have not had them all acknowledged.
  local kept, most = string.match(ARGV[2], '^(%d+) (%d+)$')
  if redis.call('EXISTS', base .. 'queues') == 0 then
    redis.call('XADD', feed, 'MAXLEN', '~', kept, '*', unpack(fields))
    return
  end
  redis.call('XADD', feed, '*', unpack(fields))
  give_way(tonumber(most))
end

-- kind, reason, user, session, state: plain text for the nodes; body: the event's own JSON members; feed: more of
-- its fields. With the state a node can bring back a member that it finds timed out.
local function announce(channel, kind, reason, user, session, state, body, feed)
  local meta, log = base .. 'meta:' .. channel, base .. 'log:' .. channel
  local saved = redis.call('HMGET', meta, 'epoch', 'seq', 'replid', 'base', 'keep')
  local replid = replication_id()
  local epoch, seq = saved[1], tonumber(saved[2] or 0) + 1
  if not epoch or (saved[3] and saved[3] ~= replid) then
    epoch, seq = begin_epoch(channel, saved, replid), 1
  else
    redis.call('HSET', meta, 'seq', int(seq), 'replid', replid) -- before the log, as above
  end
  local text = '{"seq":' .. int(seq) .. ',"at":' .. int(now) .. ',' .. body .. '}'
  local id = redis.pcall('XADD', log, 'MAXLEN', '~', LOG_LENGTH, int(seq) .. '-0', 'e', text)
  if type(id) == 'table' and id.err then -- the log is ahead of us: what it says was rolled back here
    epoch, seq = begin_epoch(channel, saved, replid), 1
    text = '{"seq":1,"at":' .. int(now) .. ',' .. body .. '}'
    redis.call('XADD', log, '1-0', 'e', text)
  end
  retain(channel, saved[5])
  feed_on(channel, {'channel', channel, 'epoch', epoch, 'user', user, 'event', text, unpack(feed or {})})
  tell(BUS, {'event', channel, epoch, int(seq), int(now), kind, reason, user, session, state or '', text})
  return epoch, seq
end

-- Ends one registered session; the last one of a user is announced, an earlier one only told to its node.
-- tombstone: number that later refreshes must beat, or nil after a timeout (then a revival must stay possible).
local function end_session(channel, user, session, reason, seen, tombstone)
  local entry = entry_of(channel, user, session)
  if tombstone then
    redis.call('SET', base .. 'alive:' .. entry, '-' .. int(tombstone), 'PX', TOMBSTONE_MS)
  end
  redis.call('HDEL', base .. 'sessions:' .. channel, user .. SEP .. session)
  redis.call('ZREM', base .. 'due', entry)
  local member = read_member(channel, user)
  if not member then
    return false
  end
  local others = {}
  for _, id in ipairs(member.ids) do
    if id ~= session then
      others[#others + 1] = id
    end
  end
  if #others > 0 then
    member.ids = others
    write_member(channel, user, member)
    tell(BUS, {'ended', channel, user, session, reason})
    return false
  end
  redis.call('HDEL', base .. 'member:' .. channel, user)
  redis.call('ZREM', base .. 'roster:' .. channel, user)
  if redis.call('EXISTS', base .. 'roster:' .. channel) == 0 then
    redis.call('ZREM', base .. 'channels', channel)
  end
  local feed = {'generation', member.generation, 'info', member.info, 'state', member.state, 'since', member.since}
  if member.unclaimed then
    feed[#feed + 1], feed[#feed + 2] = 'unclaimed', '1'
  end
  announce(channel, 'leave', reason, user, session, not member.unclaimed and member.state,
    '"type":"leave","user":' .. member.json .. ',"reason":"' .. reason .. '","last_seen":' .. int(seen), feed)
  keep_ended(channel, user, member, seen)
  return true
end
