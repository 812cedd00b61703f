-- POSTs the body in the file `-- FILE NAME VALUE …` with these headers, and prints what happened as
-- one line of JSON.
function init(args)
  local file = assert(io.open(args[1], "rb"))
  wrk.method = "POST"
  wrk.body = file:read("*a")
  file:close()
  wrk.headers["Content-Type"] = "application/json"
  wrk.headers["Accept"] = "application/json, text/event-stream"
  for at = 2, #args, 2 do
    wrk.headers[args[at]] = args[at + 1]
  end
end

function done(summary, latency, requests)
  local errors = summary.errors
  local all = errors.connect + errors.read + errors.write + errors.timeout + errors.status
  io.write(string.format(
    '{"requests":%d,"micros":%d,"errors":%d,"p50":%d,"p99":%d}\n',
    summary.requests, summary.duration, all, latency:percentile(50), latency:percentile(99)))
end
