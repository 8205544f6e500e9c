-- As request.lua, but each request is made anew. A sixth argument says how: `varying` puts another number into three
-- fields each time, `identical` does the same work with the number 0. So the load costs the same and only the bytes differ.
local here = debug.getinfo(1, "S").source:match("^@(.*/)") or ""
dofile(here .. "request.lua")

local number, step, start, rest = 0, 0, "", ""

function init(arguments)
  step = arguments[6] == "varying" and 1 or 0
  start, rest = head(arguments), "\r\n" .. body(arguments)
end

function request()
  number = number + step
  local cookie = string.format("0123456789abcdef%016x", number)
  local referer = string.format("%010d", number)
  local trace = string.format("4bf92f3577b34da6%016x", number)
  return start .. fields(cookie, referer, trace) .. rest
end
