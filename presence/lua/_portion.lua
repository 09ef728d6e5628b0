-- Put before the scripts that hand out entries: how much fits into one answer.

local LARGEST = 20480 -- bytes of an entry with the largest message

local function size_of(fields)
  local bytes = 0
  for at = 1, #fields do
    bytes = bytes + #fields[at]
  end
  return bytes
end

-- How many entries to read where so many bytes are left: all of them will fit.
local function fitting(count, room)
  return math.max(1, math.min(count, math.floor(room / LARGEST)))
end
