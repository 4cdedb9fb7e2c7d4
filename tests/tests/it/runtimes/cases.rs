//! What Kubernetes publishes of pods, each with a pod that shows it. A pod is the same for every runtime but for its program, which is a
//! script, or words for `tool.wat`.

use serde_json::{Value, json};

use super::Runtime;

/// What was seen of a pod.
pub struct Seen<'a> {
    pub pod: &'a Value,
    /// Lines of its containers, with their names.
    pub log: &'a [(String, String)],
}

impl Seen<'_> {
    fn status(&self) -> &Value {
        &self.pod["status"]
    }

    fn phase(&self) -> &str {
        self.status()["phase"].as_str().unwrap_or_default()
    }

    fn main(&self) -> &Value {
        let statuses = self.status()["containerStatuses"].as_array();
        statuses.and_then(|all| all.iter().find(|one| one["name"] == "main")).unwrap_or(&Value::Null)
    }

    fn ended(&self) -> &Value {
        &self.main()["state"]["terminated"]
    }

    fn is_ready(&self) -> bool {
        crate::common::condition(self.pod, "Ready").is_some_and(|one| one["status"] == "True")
    }

    /// What `main` has said, and nothing else.
    fn said(&self, lines: &[&str]) -> bool {
        let own = self.log.iter().filter(|(container, _)| container == "main");
        own.map(|(_, line)| line.as_str()).eq(lines.iter().copied())
    }

    fn has_line(&self, line: &str) -> bool {
        self.log.iter().any(|(_, said)| said == line)
    }

    fn has_succeeded(&self) -> bool {
        self.phase() == "Succeeded" && self.ended()["exitCode"] == 0
    }
}

/// One of them.
pub struct Case {
    /// Of its pods.
    pub name: &'static str,
    /// What is published.
    pub promise: &'static str,
    /// Which runtime does not have it, and why.
    pub except: Option<(&'static str, &'static str)>,
    pub spec: fn(&Runtime) -> Value,
    /// Whether it is so now; otherwise it is looked again.
    pub is_so: fn(&Seen<'_>) -> bool,
}

const fn case(
    name: &'static str,
    promise: &'static str,
    spec: fn(&Runtime) -> Value,
    is_so: fn(&Seen<'_>) -> bool,
) -> Case {
    Case { name, promise, except: None, spec, is_so }
}

/// A container with more fields.
fn with(mut container: Value, more: Value) -> Value {
    let fields = container.as_object_mut().expect("a container is an object");
    fields.extend(more.as_object().cloned().unwrap_or_default());
    container
}

fn once(containers: Value) -> Value {
    json!({"restartPolicy": "Never", "containers": containers})
}

/// The directory of a volume in a container; where the machine itself has nothing.
const DIR: &str = "/mnt/selvedge-suite";

fn mount(volume: &str) -> Value {
    json!({"name": volume, "mountPath": DIR})
}

pub static CASES: [Case; 18] = [
    case(
        "succeeds",
        "a program that ends with 0 leaves a pod `Succeeded`, with both of its outputs in the log",
        |runtime| once(json!([runtime.container("main", "echo hello; echo oops >&2", &["phello", "eoops"])])),
        |seen| {
            let is_whole =
                ["startedAt", "finishedAt", "containerID"].iter().all(|field| seen.ended()[field].is_string());
            seen.has_succeeded()
                && seen.ended()["reason"] == "Completed"
                && is_whole
                && !seen.is_ready()
                && seen.has_line("hello")
                && seen.has_line("oops")
                && seen.main()["restartCount"] == 0
        },
    ),
    case(
        "fails",
        "with `restartPolicy: Never` a program that ends with another code leaves it `Failed`",
        |runtime| once(json!([runtime.container("main", "exit 3", &["x3"])])),
        |seen| {
            let ended = seen.ended();
            seen.phase() == "Failed" && ended["exitCode"] == 3 && ended["reason"] == "Error"
        },
    ),
    case(
        "on-failure",
        "`OnFailure` starts it again until it succeeds; what it wrote to an emptyDir is still there",
        |runtime| {
            let script = format!("test -e {DIR}/x && exit 0; echo x > {DIR}/x; exit 1");
            let main = with(runtime.container("main", &script, &["f3x"]), json!({"volumeMounts": [mount("data")]}));
            json!({"restartPolicy": "OnFailure", "containers": [main], "volumes": [{"name": "data", "emptyDir": {}}]})
        },
        |seen| {
            let before = &seen.main()["lastState"]["terminated"]["exitCode"];
            seen.has_succeeded() && seen.main()["restartCount"] == 1 && *before == 1
        },
    ),
    case(
        "always",
        "`Always` starts it again after a success, too",
        |runtime| json!({"containers": [runtime.container("main", "echo again", &["pagain"])]}),
        |seen| seen.phase() == "Running" && seen.main()["restartCount"].as_u64() >= Some(1),
    ),
    case(
        "runs",
        "a pod that runs has addresses, a class of service, is ready once its probes say so, and is not restarted",
        |runtime| {
            let probe = json!({"exec": {"command": runtime.command("exit 0", &["x0"])}, "periodSeconds": 1});
            let main = runtime.container("main", "exec sleep 1000000", &["s"]);
            // Sixty pods start at once, on a machine that may have other things to do: how long that takes is not the point.
            let startup = with(probe.clone(), json!({"failureThreshold": 60, "timeoutSeconds": 10}));
            json!({"containers": [with(main, json!({"startupProbe": startup, "readinessProbe": probe}))]})
        },
        |seen| {
            let status = seen.status();
            let has_addresses = status["podIP"].is_string() && status["hostIP"].is_string();
            seen.phase() == "Running"
                && seen.is_ready()
                && has_addresses
                && status["qosClass"] == "BestEffort"
                && seen.main()["started"] == true
                && seen.main()["restartCount"] == 0
        },
    ),
    case(
        "environment",
        "variables: values, references to others, fields of the pod, limits, keys of ConfigMaps and Secrets, all keys",
        environment,
        |seen| {
            let name = format!("NAME={}", seen.pod["metadata"]["name"].as_str().unwrap_or_default());
            let lines = ["A=one", "B=one-two", "C=$(A)", "LIMIT=67108864", "CM=green", "SECRET=1234", "X_colour=green"];
            seen.has_succeeded() && lines.iter().all(|line| seen.has_line(line)) && seen.has_line(&name)
        },
    ),
    case(
        "arguments",
        "references to variables in arguments are replaced, `$$` keeps them",
        |runtime| {
            let main = runtime.container("main", "echo '$(A)'; echo '$$(A)'", &["p$(A)", "p$$(A)"]);
            once(json!([with(main, json!({"env": [{"name": "A", "value": "one"}]}))]))
        },
        |seen| seen.has_succeeded() && seen.said(&["one", "$(A)"]),
    ),
    case(
        "files",
        "a projected volume has keys of ConfigMaps and Secrets and fields of the pod at the paths that it says",
        files,
        |seen| seen.has_succeeded() && seen.said(&["green", "1234", "suite"]),
    ),
    case(
        "init-containers",
        "init containers end before the next one starts; a `subPath` is a part of a volume",
        |runtime| {
            let part = json!({"volumeMounts": [{"name": "data", "mountPath": DIR, "subPath": "inner"}]});
            let first =
                with(runtime.container("first", &format!("echo written > {DIR}/file"), &["w3file"]), part.clone());
            let second = with(runtime.container("second", &format!("cat {DIR}/file"), &["r3file"]), part);
            let read = format!("cat {DIR}/inner/file");
            let main =
                with(runtime.container("main", &read, &["r3inner/file"]), json!({"volumeMounts": [mount("data")]}));
            let mut spec = once(json!([main]));
            (spec["initContainers"], spec["volumes"]) =
                (json!([first, second]), json!([{"name": "data", "emptyDir": {}}]));
            spec
        },
        |seen| {
            let inits = seen.status()["initContainerStatuses"].as_array().cloned().unwrap_or_default();
            let have_ended = inits.iter().all(|one| one["state"]["terminated"]["exitCode"] == 0);
            let written = seen.log.iter().filter(|(_, line)| line == "written").count();
            seen.has_succeeded() && inits.len() == 2 && have_ended && written == 2
        },
    ),
    case(
        "init-fails",
        "with `Never` an init container that fails fails the pod, and nothing else of it starts",
        |runtime| {
            let mut spec = once(json!([runtime.container("main", "echo never", &["pnever"])]));
            spec["initContainers"] = json!([runtime.container("first", "exit 1", &["x1"])]);
            spec
        },
        |seen| {
            let init = &seen.status()["initContainerStatuses"][0]["state"]["terminated"];
            let waiting = &seen.main()["state"]["waiting"]["reason"];
            seen.phase() == "Failed" && init["exitCode"] == 1 && *waiting == "PodInitializing" && seen.log.is_empty()
        },
    ),
    case(
        "sidecar",
        "a sidecar runs beside the containers, and a pod whose containers have ended is over",
        |runtime| {
            let sidecar = runtime.container("sidecar", "exec sleep 1000000", &["s"]);
            let mut spec = once(json!([runtime.container("main", "echo beside", &["pbeside"])]));
            spec["initContainers"] = json!([with(sidecar, json!({"restartPolicy": "Always"}))]);
            spec
        },
        |seen| seen.has_succeeded() && seen.said(&["beside"]),
    ),
    case(
        "shared-volume",
        "the containers of a pod share its volumes",
        |runtime| {
            let mounts = json!({"volumeMounts": [mount("data")]});
            let other =
                with(runtime.container("other", &format!("echo written > {DIR}/file"), &["w3file"]), mounts.clone());
            let read = format!("until test -s {DIR}/file; do sleep 0.1; done; cat {DIR}/file");
            let main = with(runtime.container("main", &read, &["u3file", "r3file"]), mounts);
            let mut spec = once(json!([main, other]));
            spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            spec
        },
        |seen| seen.has_succeeded() && seen.has_line("written"),
    ),
    case(
        "read-only",
        "a read-only mount takes nothing",
        |runtime| {
            let script = format!("(echo x > {DIR}/x) 2>/dev/null || echo denied");
            let mount = json!({"name": "data", "mountPath": DIR, "readOnly": true});
            let main = with(runtime.container("main", &script, &["w3x"]), json!({"volumeMounts": [mount]}));
            let mut spec = once(json!([main]));
            spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            spec
        },
        |seen| seen.has_succeeded() && seen.said(&["denied"]),
    ),
    case(
        "last-words",
        "`FallbackToLogsOnError`: the end of the log is the message of a container that failed",
        |runtime| {
            let main = runtime.container("main", "echo the reason; exit 1", &["pthe reason", "x1"]);
            once(json!([with(main, json!({"terminationMessagePolicy": "FallbackToLogsOnError"}))]))
        },
        |seen| {
            let said = seen.ended()["message"].as_str().unwrap_or_default();
            seen.phase() == "Failed" && said.trim_end() == "the reason"
        },
    ),
    case(
        "deadline",
        "`activeDeadlineSeconds` ends a pod with the reason `DeadlineExceeded`",
        |runtime| {
            let mut spec = json!({"containers": [runtime.container("main", "exec sleep 1000000", &["s"])]});
            spec["activeDeadlineSeconds"] = 1.into();
            spec
        },
        |seen| {
            let has_ended = seen.ended()["exitCode"].is_number() || seen.main()["state"]["waiting"].is_object();
            seen.phase() == "Failed" && seen.status()["reason"] == "DeadlineExceeded" && has_ended
        },
    ),
    case(
        "liveness",
        "a container whose liveness probe fails is started again",
        |runtime| {
            let command = runtime.command("exit 1", &["x1"]);
            let probe = json!({"exec": {"command": command}, "periodSeconds": 1, "failureThreshold": 1});
            let main = runtime.container("main", "exec sleep 1000000", &["s"]);
            json!({"containers": [with(main, json!({"livenessProbe": probe}))]})
        },
        |seen| seen.main()["restartCount"].as_u64() >= Some(1),
    ),
    case(
        "post-start",
        "`postStart` runs beside the program, in its container",
        |runtime| {
            let hook = runtime.command(&format!("echo written > {DIR}/file"), &["w3file"]);
            let read = format!("until test -s {DIR}/file; do sleep 0.1; done; cat {DIR}/file");
            let main = with(
                runtime.container("main", &read, &["u3file", "r3file"]),
                json!({"volumeMounts": [mount("data")], "lifecycle": {"postStart": {"exec": {"command": hook}}}}),
            );
            let mut spec = once(json!([main]));
            spec["volumes"] = json!([{"name": "data", "emptyDir": {}}]);
            spec
        },
        |seen| seen.phase() == "Succeeded" && seen.has_line("written"),
    ),
    Case {
        except: Some(("wasm", "a module that gets no more memory may end by itself")),
        ..case(
            "out-of-memory",
            "a container that takes more memory than its limit is killed: `OOMKilled`, 137",
            |runtime| {
                let limits = json!({"resources": {"limits": {"memory": "48Mi"}}});
                once(json!([with(runtime.container("main", "exec tail /dev/zero", &[]), limits)]))
            },
            |seen| seen.phase() == "Failed" && seen.ended()["reason"] == "OOMKilled" && seen.ended()["exitCode"] == 137,
        )
    },
];

fn environment(runtime: &Runtime) -> Value {
    let field = |path: &str| json!({"fieldRef": {"fieldPath": path}});
    let key = |name: &str, key: &str| json!({"name": name, "key": key});
    let env = json!([
        {"name": "A", "value": "one"},
        {"name": "B", "value": "$(A)-two"},
        {"name": "C", "value": "$$(A)"},
        {"name": "NAME", "valueFrom": field("metadata.name")},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory"}}},
        {"name": "CM", "valueFrom": {"configMapKeyRef": key("suite", "colour")}},
        {"name": "SECRET", "valueFrom": {"secretKeyRef": key("suite", "pin")}},
    ]);
    let more = json!({
        "env": env,
        "envFrom": [{"prefix": "X_", "configMapRef": {"name": "suite"}}],
        "resources": {"limits": {"memory": "64Mi"}},
    });
    once(json!([with(runtime.container("main", "env", &["v"]), more)]))
}

fn files(runtime: &Runtime) -> Value {
    let sources = json!([
        {"configMap": {"name": "suite", "items": [{"key": "colour", "path": "colour"}]}},
        {"secret": {"name": "suite", "items": [{"key": "pin", "path": "deep/pin"}]}},
        {"downwardAPI": {"items": [{"path": "label", "fieldRef": {"fieldPath": "metadata.labels['app']"}}]}},
    ]);
    let script = format!("cat {DIR}/colour; echo; cat {DIR}/deep/pin; echo; cat {DIR}/label; echo");
    let main = runtime.container("main", &script, &["r3colour", "r3deep/pin", "r3label"]);
    let mut spec = once(json!([with(main, json!({"volumeMounts": [mount("config")]}))]));
    spec["volumes"] = json!([{"name": "config", "projected": {"sources": sources}}]);
    spec
}
