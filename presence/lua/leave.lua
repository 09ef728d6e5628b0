-- End one session, or all sessions of a user, in a channel: now, without grace; what was ended stays ended.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 history_ms, 2 feed length, 3 bus, 4 channel, 5 user, 6 session ('' all of the user),
--       7 number ('' whoever owns it), 8 reason
-- Returns: {'ok', left 0/1, the ended sessions}, {'not_joined'} or {'replaced'}

local channel, user, number_given, reason = ARGV[4], ARGV[5], ARGV[7], ARGV[8]
local ids = {ARGV[6]}
if ARGV[6] == '' then
  local member = read_member(channel, user)
  ids = member and member.ids or {}
end

local ended, left = {}, 0
for _, id in ipairs(ids) do
  local entry = entry_of(channel, user, id)
  local session = read_session(channel, user .. SEP .. id)
  if session then
    local number = number_given ~= '' and tonumber(number_given) or session.number
    if session.number > number then -- guard: order of connection numbers
      return {'replaced'}
    end
    local seen = now
    if reason ~= 'left' then
      seen = last_seen(session, tonumber(redis.call('ZSCORE', base .. 'due', entry) or now))
    end
    ended[#ended + 1] = id
    if end_session(channel, user, id, reason, seen, number) then
      left = 1
    end
  else
    -- Also where nothing is registered: a join that is still on its way from an older connection must lose.
    local alive = redis.call('GET', base .. 'alive:' .. entry)
    local tomb = alive and tonumber(string.match(alive, '^%-(%d+)$')) or 0
    local number = math.max(tomb, number_given ~= '' and tonumber(number_given) or 0)
    if number > 0 then
      redis.call('SET', base .. 'alive:' .. entry, '-' .. int(number), 'PX', TOMBSTONE_MS)
    end
  end
end
if #ended == 0 then
  return {'not_joined'}
end
return {'ok', left, ended}
