-- Put before the scripts that know of positions kept for users who are away.
-- meta:<channel> tells of its epochs: `born`, the first one of this history; `base`, how many events came before the
-- present one; `past`, by comma and the oldest first, those before it: name, base, last seq. A position is
-- epoch SEP seq SEP total SEP born, of the last event that its user acknowledged; total is base + seq.

-- born, all epochs as text, the present one last, and keep; nil where nobody spoke of the channel yet
local function history_of(channel)
  local saved = redis.call('HMGET', base .. 'meta:' .. channel, 'epoch', 'seq', 'base', 'born', 'past', 'keep')
  if not saved[1] then
    return nil
  end
  local past = saved[5] and saved[5] ~= '' and saved[5] .. ',' or ''
  return saved[4] or '', past .. saved[1] .. ' ' .. (saved[3] or '0') .. ' ' .. saved[2], saved[6]
end

local function epochs_in(text)
  local epochs = {}
  for name, held, last in string.gmatch(text, '(%x+) (%d+) (%d+)') do
    epochs[#epochs + 1] = {name = name, held = tonumber(held), last = tonumber(last)}
  end
  return epochs
end

-- How many events of this history a position has behind it, and whether it is of this history at all.
local function reached(row, born, epochs)
  if not row or row == '' then
    return 0, true
  end
  local part = split(row)
  local seq, total = tonumber(part[2]), tonumber(part[3])
  if part[4] ~= born or #epochs == 0 then -- guard: another history
    return 0, false
  end
  for _, epoch in ipairs(epochs) do
    if epoch.name == part[1] then
      return epoch.held + math.min(seq, epoch.last), true
    end
  end
  -- Of an epoch that was rolled back it counts up to where that one began. Of one that is too old to be known it counts
  -- as it is, but not into those that are known: what it counted there was rolled back.
  return math.max(total - seq, math.min(total, epochs[1].held)), true
end

local function log_of(channel, epochs, at)
  return at == #epochs and base .. 'log:' .. channel or base .. 'past:' .. channel .. SEP .. epochs[at].name
end

-- All logs, the oldest first.
local function logs_of(channel)
  local _, text = history_of(channel)
  local epochs, logs = epochs_in(text or ''), {}
  for at = 1, #epochs do
    logs[at] = log_of(channel, epochs, at)
  end
  return logs
end

local function at_of(text)
  return tonumber(string.match(text, '^{"seq":%d+,"at":(%d+)'))
end
