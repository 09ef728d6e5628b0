-- Put before the scripts that announce: what of a presence outlives its end, where the queue `archive` exists.
-- unarchived              see _feed.lua: until the archive has it, it is here
-- last:<ch> SEP <user>    string: the last state, at hand for who returns soon
-- lasts:<user>            channels in which the user has such a state by when it ends, so that a user can be erased

local LAST_MS = 3600000 -- later the archive is asked

local function keep_ended(channel, user, member, seen)
  local archive = queue_of('archive')
  if not archive or string.sub(channel, 1, 1) == '@' or not wants_kind(archive, channel, 'leave') then
    return
  end
  local unarchived, head = base .. 'unarchived', user .. SEP .. channel .. SEP
  for _, older in ipairs(redis.call('ZRANGEBYLEX', unarchived, '[' .. head, '(' .. head .. '\255')) do
    redis.call('ZREM', unarchived, older) -- so that who is not in here is in the archive, with the newest
  end
  local state = member.unclaimed and '' or member.state
  redis.call('ZADD', unarchived, 0, head .. table.concat({member.generation, int(seen), state}, SEP))
  if state ~= '' then
    local lasts = base .. 'lasts:' .. user
    redis.call('SET', base .. 'last:' .. channel .. SEP .. user, state, 'PX', LAST_MS)
    redis.call('ZADD', lasts, int(now + LAST_MS), channel)
    redis.call('ZREMRANGEBYSCORE', lasts, '-inf', int(now))
    redis.call('PEXPIRE', lasts, LAST_MS)
  end
end

-- The state with which the user's last presence in the channel ended; nil: only the archive can know.
local function last_state(channel, user)
  local state = redis.call('GET', base .. 'last:' .. channel .. SEP .. user)
  if state then
    return state
  end
  local head = user .. SEP .. channel .. SEP
  local row = redis.call('ZRANGEBYLEX', base .. 'unarchived', '[' .. head, '(' .. head .. '\255')[1]
  state = row and split(row)[5] or ''
  return state ~= '' and state or nil
end
