-- Read what waits for a user behind their positions in some channels, of each what is left of one epoch at the most;
-- moves nothing. Runs in the channels' partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 keep_ms, 2 bytes of a channel, then for each channel 3 its name, 4 the position ('' none), 5 how many events
-- Returns: {'settling'} or {'ok', one list for each channel with something to tell}: channel, events behind the
--          position, whether the position is of this history (0/1), whether there is more (0/1), epoch, events before
--          it, seq of the end, then of each event its seq and text. Channels for which there was no time are left out.

local MOST_SEARCHED = 100 -- rows that are looked at only to find where those begin that are young enough
local ROW_BYTES = 16384   -- of most events at the most

local oldest, share = now - tonumber(ARGV[1]), tonumber(ARGV[2])
if not readable() then
  return {'settling'}
end

local searched = 0
local function look_at(command, log, from, to)
  local row = redis.call(command, log, int(from) .. '-0', int(to) .. '-0', 'COUNT', 1)[1]
  searched = searched + 1
  return row and tonumber(string.match(row[1], '^%d+')), row and at_of(row[2][2]) < oldest
end

-- Seq of the first event from `low` to `last` that is there and young enough. They follow each other without holes.
local function first_young(log, low, last)
  local seq, old = look_at('XRANGE', log, low, last)
  if not old then
    return seq
  end
  local tail, all_old = look_at('XREVRANGE', log, last, seq)
  if all_old then
    return nil
  end
  low = seq + 1
  while low < tail do
    local middle = math.floor((low + tail) / 2)
    local _, too_old = look_at('XRANGE', log, middle, last)
    if too_old then
      low = middle + 1
    else
      tail = middle
    end
  end
  return low
end

-- Adds seqs and texts from seq `first` to `last` while there is room; returns their bytes and where it has got to.
local function read_rows(found, log, first, last, most, room)
  local bytes, at = 0, first
  while most > 0 and at <= last and bytes < room do
    local count = math.min(most, math.max(1, math.floor((room - bytes) / ROW_BYTES)))
    local rows = redis.call('XRANGE', log, int(at) .. '-0', int(last) .. '-0', 'COUNT', count)
    if #rows == 0 then
      return bytes, last
    end
    for _, row in ipairs(rows) do
      at = tonumber(string.match(row[1], '^%d+'))
      bytes = bytes + #row[2][2] + 1
      found[#found + 1], found[#found + 2] = int(at), row[2][2]
    end
    at, most = at + 1, most - #rows
  end
  return bytes, at - 1
end

-- What is to be told of one channel (nil: nothing), and its bytes.
local function tell_of(channel, row, most, room)
  local born, text = history_of(channel)
  local epochs = epochs_in(text or '')
  local from, known = reached(row, born, epochs)
  local present = epochs[#epochs]
  local total = present and present.held + present.last or 0
  if total <= from then
    return nil, 0
  end
  local found = {channel, int(from), known and 1 or 0, 0, present.name, int(present.held), int(present.last)}
  for at, epoch in ipairs(epochs) do
    local log, low = log_of(channel, epochs, at), math.max(0, from - epoch.held) + 1
    local first = low <= epoch.last and first_young(log, low, epoch.last)
    if first then -- not those of later epochs, too: a cursor is of one
      local bytes, last = read_rows(found, log, first, epoch.last, most, room)
      found[4] = total > epoch.held + last and 1 or 0
      found[5], found[6], found[7] = epoch.name, int(epoch.held), int(last)
      return found, bytes
    end
  end
  return found, 0
end

local reply, bytes = {'ok'}, 0
for at = 3, #ARGV, 3 do
  if bytes >= share * (#ARGV - 2) / 3 or searched > MOST_SEARCHED then
    break
  end
  local room = math.max(1, share * at / 3 - bytes) -- what those before it left is its own, too
  local found, size = tell_of(ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2]), room)
  reply[#reply + 1] = found
  bytes = bytes + size
end
return reply
