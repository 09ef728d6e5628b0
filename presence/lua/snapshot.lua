-- Read a channel without entering it: what an observer is shown, a page of the roster, or past events.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 what (view, roster, deadlines: a roster with them, history), 2 channel, 3 cursor epoch, 4 cursor seq, 5 limit, 6 after (a user),
--       7 max bytes, 8 keep_ms
-- Returns: {'settling'} or
--          view    {'ok', {epoch, seq, recovered, count, truncated, texts}}
--          roster  {'ok', epoch, seq, count, next user or '', texts, now}
--          history {'ok', epoch, seq of the last event given, recovered, texts}

local what, channel, limit, max_bytes, keep_ms = ARGV[1], ARGV[2], tonumber(ARGV[5]), tonumber(ARGV[7]), ARGV[8]
if not readable() then
  return {'settling'}
end
if what == 'view' then
  return {'ok', view(channel, ARGV[3], ARGV[4], limit, max_bytes, keep_ms)}
end

local epoch, seq = position(channel, keep_ms, false)
if what == 'roster' or what == 'deadlines' then
  local texts, last, more = members_after(channel, ARGV[6], limit, max_bytes, what == 'deadlines')
  return {'ok', epoch, int(seq), redis.call('ZCARD', base .. 'roster:' .. channel), more and last or '', texts, int(now)}
end

local log = base .. 'log:' .. channel
local known, rows = seq, {}
if ARGV[3] == '' then
  local newest, room, first = redis.call('XREVRANGE', log, '+', '-', 'COUNT', limit), max_bytes, 0
  while newest[first + 1] and room > #newest[first + 1][2][2] do -- the newest ones: what has no room is older
    first = first + 1
    room = room - #newest[first][2][2] - 1
  end
  for at = first, 1, -1 do
    rows[#rows + 1] = newest[at]
  end
else
  known = tonumber(ARGV[4])
  if ARGV[3] ~= epoch or known > seq then
    return {'ok', epoch, int(seq), 0, {}}
  end
  rows = redis.call('XRANGE', log, int(known + 1) .. '-0', '+', 'COUNT', limit)
  if known < seq and (#rows == 0 or rows[1][1] ~= int(known + 1) .. '-0') then
    return {'ok', epoch, int(seq), 0, {}}
  end
end
local texts, bytes, last = {}, 0, known
for _, row in ipairs(rows) do
  bytes = bytes + #row[2][2] + 1
  if bytes > max_bytes then
    break
  end
  texts[#texts + 1], last = row[2][2], tonumber(string.match(row[1], '^%d+'))
end
return {'ok', epoch, int(last), 1, texts}
