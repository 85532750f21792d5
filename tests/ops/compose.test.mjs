/** docker-compose.yml mounts the files that the other tests check. The tests read it and do not run it. */

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import path from "node:path";
import { describe, it } from "node:test";
import { OPS, files, read, run, yaml } from "./files.mjs";

describe("ops/docker-compose.yml", () => {
  const { services, volumes } = yaml("ops", "docker-compose.yml");
  /** The volumes of all services, each as source, path in the container and mode. */
  const mounts = Object.values(services).flatMap((service) => service.volumes.map((volume) => volume.split(":")));
  /** The file of this repository that a service has at a path in its container. */
  const sourceOf = (service, name) => {
    const mount = services[service].volumes.map((volume) => volume.split(":")).find(([, to]) => name === to || name.startsWith(`${to}/`));
    assert.ok(mount, `${service} mounts nothing at ${name}`);
    return path.join(OPS, mount[0], name.slice(mount[1].length));
  };

  it("mounts existing files read-only, and volumes that it declares", () => {
    for (const [from, , mode] of mounts) {
      if (from.startsWith("./")) {
        assert.ok(existsSync(path.join(OPS, from)), from);
        assert.equal(mode, "ro", from);
      } else assert.ok(from in volumes, from);
    }
  });

  it("starts each program with the tested file", () => {
    for (const service of ["prometheus", "alertmanager"]) {
      const file = services[service].command.find((argument) => argument.startsWith("--config.file=")).split("=")[1];
      assert.equal(sourceOf(service, file), path.join(OPS, service, `${service}.yml`));
    }
    assert.equal(sourceOf("prometheus", "/etc/prometheus/rules"), path.join(OPS, "prometheus", "rules"));
    const [{ static_configs: [{ targets }] }] = yaml("ops", "prometheus", "prometheus.yml").alerting.alertmanagers;
    assert.deepEqual(targets, ["alertmanager:9093"]);
  });

  it("runs the versions of Prometheus and Alertmanager that the files are tested with", () => {
    for (const [service, program] of [["prometheus", "prometheus"], ["alertmanager", "amtool"]]) {
      const [, installed] = /version (\d+\.\d+\.\d+)/.exec(run(program, ["--version"]));
      // The installed version may be newer than the deployed one.
      const [, deployed] = /:v(\d+\.\d+\.\d+)$/.exec(services[service].image);
      assert.ok(installed.localeCompare(deployed, "en", { numeric: true }) >= 0, `docker-compose.yml runs ${service} ${deployed}, newer than the installed ${installed}`);
    }
  });

  it("reads every secret from ops/secrets, which git ignores, and opens ports on loopback only", () => {
    for (const [service, secrets] of [
      ["prometheus", ["/etc/prometheus/secrets/limiter_token"]],
      ["alertmanager", ["/etc/alertmanager/secrets/slack_webhook_url", "/etc/alertmanager/secrets/pagerduty_routing_key"]],
      ["grafana", ["/etc/grafana/secrets/grafana_admin_password"]],
    ]) for (const secret of secrets) assert.equal(path.dirname(sourceOf(service, secret)), path.join(OPS, "secrets"));
    assert.deepEqual(files("secrets").filter((file) => run("git", ["ls-files", file], { cwd: path.dirname(OPS) }) !== ""), []);
    assert.match(read("ops", "secrets", ".gitignore"), /^\*$/m);
    for (const { ports } of Object.values(services)) for (const port of ports) assert.match(port, /^127\.0\.0\.1:/);
  });
});
