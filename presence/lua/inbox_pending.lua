-- Read what waits for a user behind their positions in some channels; moves nothing. Runs in the channels' partition.
-- KEYS: 1 guard, 2 never
-- ARGV: 1 user, 2 keep_ms, 3 limit of a channel, 4 max bytes, then for each channel 5 its name, 6 the position ('' none)
-- Returns: {'settling'} or {'ok', one list for each channel with something to tell}: channel, events behind the
--          position, whether the position is of this history (0/1), whether there is more (0/1), then epoch, seq and
--          total of the end, and of each event with its text

local user, keep, limit, max_bytes = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
if not readable() then
  return {'settling'}
end

local waiting = {}
for at = 5, #ARGV, 2 do
  local channel, row = ARGV[at], ARGV[at + 1]
  local born, text = history_of(channel)
  local epochs = epochs_in(text or '')
  local from, known = reached(row, born, epochs)
  if row ~= '' and string.sub(channel, 1, 1) ~= '@'
    and (not known or redis.call('HGET', base .. 'meta:' .. channel, 'keep') ~= keep) then
    keep_for(channel, user, keep) -- the channel was lost and began anew, or the setting is another
  end
  local present = epochs[#epochs]
  if present and present.held + present.last > from then
    waiting[#waiting + 1] = {channel = channel, from = from, known = known, epochs = epochs}
  end
end
local share = max_bytes / math.max(1, #waiting) -- none of them shall keep the others waiting

local reply = {'ok'}
local function tell_of(place)
  local texts, bytes, more, epochs = {}, 0, false, place.epochs
  local function take(at, id, text)
    if at_of(text) < now - tonumber(keep) then
      return
    end
    bytes = bytes + #text + 1
    more = #texts >= 4 * limit or (bytes > share and #texts > 0)
    if not more then
      local seq = tonumber(string.match(id, '^%d+'))
      for _, value in ipairs({epochs[at].name, int(seq), int(epochs[at].held + seq), text}) do
        texts[#texts + 1] = value
      end
    end
  end
  for at, epoch in ipairs(epochs) do
    local id, last = int(math.max(0, place.from - epoch.held) + 1) .. '-0', int(epoch.last) .. '-0'
    while not more and epoch.held + epoch.last > place.from do
      local rows = redis.call('XRANGE', log_of(place.channel, epochs, at), id, last, 'COUNT', math.min(limit + 1, 100))
      for _, row in ipairs(rows) do
        take(at, row[1], row[2][2])
        if more then
          break
        end
      end
      if #rows == 0 then
        break
      end
      id = '(' .. rows[#rows][1]
    end
  end
  local present = epochs[#epochs]
  local found = {place.channel, int(place.from), place.known and 1 or 0, more and 1 or 0}
  local ending = {present.name, int(present.last), int(present.held + present.last)}
  if more then
    ending = {texts[#texts - 3], texts[#texts - 2], texts[#texts - 1]}
  end
  for _, values in ipairs({ending, texts}) do
    for _, value in ipairs(values) do
      found[#found + 1] = value
    end
  end
  reply[#reply + 1] = found
end
for _, place in ipairs(waiting) do
  tell_of(place)
end
return reply
