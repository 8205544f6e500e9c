-- The request of every workload: ten fields as a browser sends them, after Host. Arguments (after --):
--   METHOD PATH BODY_BYTES HOST CONNECTION
-- CONNECTION is `close` or `keep-alive`; keep-alive is the protocol's default and is not sent.
-- The text is made here, not by wrk.format, so that names keep their case and their order.
function fields(cookie, referer, trace)
  return "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36\r\n"
    .. "Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n"
    .. "Accept-Language: en-US,en;q=0.5\r\n"
    .. "Accept-Encoding: gzip, deflate, br\r\n"
    .. "Cookie: session=" .. cookie .. "; theme=dark; _ga=GA1.2.123456789.1234567890\r\n"
    .. "Referer: https://www.example.com/some/path/page-" .. referer .. ".html\r\n"
    .. "Cache-Control: no-cache\r\n"
    .. "Traceparent: 00-" .. trace .. "-00f067aa0ba902b7-01\r\n"
    .. "Sec-Fetch-Dest: document\r\n"
    .. "Sec-Fetch-Mode: navigate\r\n"
end

function head(arguments)
  local text = arguments[1] .. " " .. arguments[2] .. " HTTP/1.1\r\nHost: " .. arguments[4] .. "\r\n"
  if arguments[5] == "close" then
    text = text .. "Connection: close\r\n"
  end
  if tonumber(arguments[3]) > 0 then
    text = text .. "Content-Length: " .. arguments[3] .. "\r\n"
  end
  return text
end

function body(arguments)
  return string.rep("u", tonumber(arguments[3]))
end

function init(arguments)
  local text = head(arguments) .. fields("0123456789abcdef0123456789abcdef", "0000000000",
    "4bf92f3577b34da6a3ce929d0e0e4736") .. "\r\n" .. body(arguments)
  wrk.format = function() return text end  -- wrk calls it once, after init
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "microseconds": %d, "bytes": %d, "p50_us": %d, "p99_us": %d, "connect": %d, "read": %d, '
      .. '"write": %d, "timeout": %d, "status": %d}\n',
    summary.requests, summary.duration, summary.bytes, latency:percentile(50), latency:percentile(99),
    errors.connect, errors.read, errors.write, errors.timeout, errors.status))
end
