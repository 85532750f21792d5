/** Creates a certificate authority for tests, and a certificate for a Redis with TLS that the authority has signed. */

import { execFileSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

/**
 * @param {string} [name] the certificate's subject alternative name, in OpenSSL's notation
 * @returns {{authority: string, redisArgs: (port: number) => string[], remove: () => void}} `authority`: its certificate in PEM
 */
export function makeCertificates(name = "DNS:localhost") {
  const folder = mkdtempSync(join(tmpdir(), "edge-limiter-tls-"));
  const make = (name, subject, ...args) => execFileSync("openssl", [
    "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", `/CN=${subject}`,
    "-keyout", `${name}.key`, "-out", `${name}.pem`, ...args,
  ], { cwd: folder, stdio: "pipe" });
  make("authority", "an authority of tests");
  make("redis", "localhost", "-addext", `subjectAltName=${name}`, "-CA", "authority.pem", "-CAkey", "authority.key");
  const file = (name) => join(folder, name);
  return {
    authority: readFileSync(file("authority.pem"), "utf8"),
    redisArgs: (port) => [
      "--tls-port", String(port), "--tls-cert-file", file("redis.pem"), "--tls-key-file", file("redis.key"),
      "--tls-ca-cert-file", file("authority.pem"), "--tls-auth-clients", "no",
    ],
    remove: () => rmSync(folder, { recursive: true, force: true }),
  };
}
