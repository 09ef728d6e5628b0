-- Put before the scripts that show a channel: roster, history and position are read at one instant.

local function member_text(member, more)
  return '{"user":' .. member.json .. ',"info":' .. member.info .. ',"state":' .. member.state
    .. ',"sessions":' .. #member.ids .. ',"since":' .. member.since .. (more or '') .. '}'
end

-- The member's last deadline: when they go, if none of their sessions shows life before.
local function deadline_text(channel, user, member)
  local last = 0
  for _, id in ipairs(member.ids) do
    last = math.max(last, tonumber(redis.call('ZSCORE', base .. 'due', entry_of(channel, user, id)) or 0))
  end
  return ',"expires_at":' .. int(last)
end

-- Where the channel stands: epoch, seq. A channel nobody spoke of yet gets its epoch here, so that the first
-- event after a snapshot is the next one; it is forgotten after keep_ms.
local function position(channel, keep_ms, renew)
  local meta, log = base .. 'meta:' .. channel, base .. 'log:' .. channel
  local saved = redis.call('HMGET', meta, 'epoch', 'seq')
  if not saved[1] then
    local epoch = new_epoch()
    redis.call('HSET', meta, 'epoch', epoch, 'seq', '0', 'replid', replication_id(), 'born', epoch)
    redis.call('PEXPIRE', meta, keep_ms)
    redis.call('DEL', log)
    return epoch, 0
  end
  local left = renew and redis.call('PTTL', meta) or 0
  if left > 0 and left < tonumber(keep_ms) then
    redis.call('PEXPIRE', meta, keep_ms)
    redis.call('PEXPIRE', log, keep_ms)
  end
  return saved[1], tonumber(saved[2])
end

-- Events after `seq` up to `last`, all of them or nil: never a part.
local function events_between(channel, seq, last, max_bytes)
  if last - seq > LOG_LENGTH then
    return nil
  end
  local texts, bytes = {}, 0
  if last == seq then
    return texts
  end
  for _, row in ipairs(redis.call('XRANGE', base .. 'log:' .. channel, int(seq + 1) .. '-0', int(last) .. '-0')) do
    texts[#texts + 1] = row[2][2]
    bytes = bytes + #row[2][2] + 1
  end
  if #texts ~= last - seq or bytes > max_bytes then
    return nil
  end
  return texts
end

-- Up to `limit` members in byte order behind `after`; more: whether any are left out.
local function members_after(channel, after, limit, max_bytes, deadlines)
  local from = after == '' and '-' or '(' .. after
  local users = redis.call('ZRANGEBYLEX', base .. 'roster:' .. channel, from, '+', 'LIMIT', 0, limit + 1)
  local texts, bytes, last = {}, 0, ''
  for _, user in ipairs(users) do
    local member = read_member(channel, user)
    if #texts >= limit then
      return texts, last, true
    end
    if member then
      local text = member_text(member, deadlines and deadline_text(channel, user, member))
      bytes = bytes + #text + 1
      if bytes > max_bytes then
        return texts, last, true
      end
      texts[#texts + 1], last = text, user
    end
  end
  return texts, last, false
end

-- What a client that enters is shown: {epoch, seq, recovered, count, truncated, texts}.
local function view(channel, cursor_epoch, cursor_seq, limit, max_bytes, keep_ms)
  local epoch, seq = position(channel, keep_ms, true)
  local count = redis.call('ZCARD', base .. 'roster:' .. channel)
  local known = tonumber(cursor_seq) or -1
  if cursor_epoch == epoch and known >= 0 and known <= seq then
    local texts = events_between(channel, known, seq, max_bytes)
    if texts then
      return {epoch, int(seq), 1, count, 0, texts}
    end
  end
  local texts, _, more = members_after(channel, '', limit, max_bytes)
  return {epoch, int(seq), 0, count, more and 1 or 0, texts}
end
