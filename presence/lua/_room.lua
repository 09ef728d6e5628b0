-- Put before what writes into a user's own mailbox: its oldest messages give way to new ones.
-- meta:<mailbox> has `keep`, ms for which a message is kept, and `bytes`, what came in since its logs were counted last.

local INBOX_BYTES = 1048576
local HEAD_BYTES = 64 -- of an event, before its body: seq and time

-- Leaves the newest messages that have room together, where they are more than the bound; returns their bytes.
local function count_anew(logs, room)
  local bytes, full = 0, false
  for at = #logs, 1, -1 do -- the newest log first
    local kept = nil
    for _, row in ipairs(full and {} or redis.call('XREVRANGE', logs[at], '+', '-')) do
      full = bytes + #row[2][2] > room
      if full then
        break
      end
      bytes, kept = bytes + #row[2][2], row[1]
    end
    if not kept then
      redis.call('DEL', logs[at])
    elseif full then
      redis.call('XTRIM', logs[at], 'MINID', '=', kept)
    end
  end
  return bytes
end

-- Before a message of `size` bytes: at most LOG_LENGTH and INBOX_BYTES with it, and none that is older than `keep`.
local function make_room(channel, keep, size)
  local meta = base .. 'meta:' .. channel
  redis.call('HSET', meta, 'keep', keep) -- first, so that out of memory is an error before anything went
  local logs, count = logs_of(channel), 0
  for _, log in ipairs(logs) do
    while true do
      local row = redis.call('XRANGE', log, '-', '+', 'COUNT', 1)[1]
      if not row or at_of(row[2][2]) >= now - tonumber(keep) then
        break
      end
      redis.call('XDEL', log, row[1])
    end
    count = count + redis.call('XLEN', log)
  end
  for _, log in ipairs(logs) do
    local here = redis.call('XLEN', log)
    local going = math.max(0, math.min(count - LOG_LENGTH + 1, here))
    if going > 0 then
      redis.call('XTRIM', log, 'MAXLEN', '=', here - going)
      count = count - going
    end
  end
  local bytes = redis.call('HINCRBY', meta, 'bytes', size)
  if bytes > INBOX_BYTES then -- an eighth more than needed: not every message shall count anew
    redis.call('HSET', meta, 'bytes', int(count_anew(logs, math.floor(INBOX_BYTES * 7 / 8) - size) + size))
  end
end
