export function GET(request) {
  return Response.json({ hello: request.headers.get("x-edge-limiter-ip") });
}
