//! What the default profile decides, written down from the definitions without any thought of speed: every question walks all
//! nodes and all pods, as JSON.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

/// A cluster as lists.
#[derive(Clone, Debug, Default)]
pub struct Naive {
    pub nodes: Vec<Value>,
    /// Pods that have a node.
    pub pods: Vec<Value>,
    /// Labels of namespaces.
    pub namespaces: BTreeMap<String, Value>,
    /// Namespaces and selectors of Services.
    pub services: Vec<(String, Value)>,
    /// Namespaces, selectors and `disruptionsAllowed`.
    pub budgets: Vec<(String, Value, i64)>,
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn list<'v>(value: &'v Value, pointer: &str) -> &'v [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn label<'v>(object: &'v Value, key: &str) -> Option<&'v str> {
    object["metadata"]["labels"][key].as_str()
}

pub fn name(object: &Value) -> &str {
    text(object, "/metadata/name")
}

fn namespace(object: &Value) -> &str {
    text(object, "/metadata/namespace")
}

fn priority(pod: &Value) -> i64 {
    pod["spec"]["priority"].as_i64().unwrap_or(0)
}

fn is_met(expression: &Value, value: Option<&str>) -> bool {
    let values: Vec<&str> = list(expression, "/values").iter().filter_map(Value::as_str).collect();
    let number = || value.and_then(|value| value.parse::<i64>().ok());
    let bound = || values[0].parse::<i64>().unwrap();
    match text(expression, "/operator") {
        "In" => value.is_some_and(|value| values.contains(&value)),
        "NotIn" => value.is_none_or(|value| !values.contains(&value)),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => number().is_some_and(|number| number > bound()),
        "Lt" => number().is_some_and(|number| number < bound()),
        other => panic!("no operator {other}"),
    }
}

fn selects(selector: &Value, labels: &Value) -> bool {
    if selector.is_null() {
        return false;
    }
    let pairs = selector["matchLabels"].as_object();
    pairs.into_iter().flatten().all(|(key, value)| labels[key] == *value)
        && list(selector, "/matchExpressions").iter().all(|one| is_met(one, labels[text(one, "/key")].as_str()))
}

fn term_matches(term: &Value, node: &Value) -> bool {
    let (expressions, fields) = (list(term, "/matchExpressions"), list(term, "/matchFields"));
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|one| is_met(one, label(node, text(one, "/key"))))
        && fields.iter().all(|one| is_met(one, Some(name(node))))
}

fn node_affinity_matches(pod: &Value, node: &Value) -> bool {
    let selector = pod["spec"]["nodeSelector"].as_object();
    let required = &pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    selector.into_iter().flatten().all(|(key, value)| label(node, key) == value.as_str())
        && (required.is_null() || list(required, "/nodeSelectorTerms").iter().any(|term| term_matches(term, node)))
}

fn tolerates(pod: &Value, taint: &Value) -> bool {
    list(pod, "/spec/tolerations").iter().any(|one| {
        let effect = text(one, "/effect");
        let key = text(one, "/key");
        (effect.is_empty() || effect == text(taint, "/effect"))
            && (key.is_empty() || key == text(taint, "/key"))
            && (text(one, "/operator") == "Exists" || text(one, "/value") == text(taint, "/value"))
    })
}

fn tolerates_all(pod: &Value, node: &Value) -> bool {
    let hard = list(node, "/spec/taints").iter().filter(|taint| text(taint, "/effect") != "PreferNoSchedule");
    hard.into_iter().all(|taint| tolerates(pod, taint))
}

fn amount(list: &Value, resource: &str) -> Option<i64> {
    let text = list[resource].as_str()?;
    Some(text.strip_suffix('m').map_or_else(
        || text.parse::<i64>().unwrap() * if resource == "cpu" { 1000 } else { 1 },
        |milli| milli.parse().unwrap(),
    ))
}

/// What a pod needs of a resource at most at any time; `missing` is what a container needs that does not say.
fn requested(pod: &Value, resource: &str, missing: i64) -> i64 {
    let of = |container: &Value| amount(&container["resources"]["requests"], resource).unwrap_or(missing);
    let is_sidecar = |container: &&Value| container["restartPolicy"] == "Always";
    let init = list(pod, "/spec/initContainers");
    let running: i64 =
        list(pod, "/spec/containers").iter().map(of).sum::<i64>() + init.iter().filter(is_sidecar).map(of).sum::<i64>();
    let starting = (0..init.len()).map(|at| init[..at].iter().filter(is_sidecar).map(of).sum::<i64>() + of(&init[at]));
    running.max(starting.max().unwrap_or(0)) + amount(&pod["spec"]["overhead"], resource).unwrap_or(0)
}

fn ports(pod: &Value) -> Vec<(String, i64, String)> {
    let ports = list(pod, "/spec/containers").iter().flat_map(|container| list(container, "/ports"));
    ports
        .filter(|port| port["hostPort"].is_i64())
        .map(|port| {
            let protocol = if text(port, "/protocol").is_empty() { "TCP" } else { text(port, "/protocol") };
            (protocol.to_owned(), port["hostPort"].as_i64().unwrap(), text(port, "/hostIP").to_owned())
        })
        .collect()
}

fn constraints(pod: &Value, when: &str) -> Vec<Value> {
    list(pod, "/spec/topologySpreadConstraints")
        .iter()
        .filter(|one| text(one, "/whenUnsatisfiable") == when)
        .cloned()
        .collect()
}

fn terms(pod: &Value, kind: &str, when: &str) -> Vec<Value> {
    list(&pod["spec"]["affinity"][kind], when).to_vec()
}

const REQUIRED: &str = "/requiredDuringSchedulingIgnoredDuringExecution";
const PREFERRED: &str = "/preferredDuringSchedulingIgnoredDuringExecution";

impl Naive {
    fn node(&self, of: &Value) -> Option<&Value> {
        self.nodes.iter().find(|node| name(node) == text(of, "/spec/nodeName"))
    }

    fn pods_on<'n>(&'n self, node: &'n Value) -> impl Iterator<Item = &'n Value> {
        self.pods.iter().filter(move |pod| text(pod, "/spec/nodeName") == name(node))
    }

    /// Whether a term of one pod means another.
    fn means(&self, owner: &Value, term: &Value, other: &Value) -> bool {
        let names = list(term, "/namespaces");
        let selector = &term["namespaceSelector"];
        let of_namespace = self.namespaces.get(namespace(other)).cloned().unwrap_or_else(|| json!({}));
        let is_in = if names.is_empty() && selector.is_null() {
            namespace(owner) == namespace(other)
        } else {
            names.iter().any(|one| one == namespace(other)) || selects(selector, &of_namespace)
        };
        is_in && selects(&term["labelSelector"], &other["metadata"]["labels"])
    }

    /// Whether two nodes share a value of a label.
    fn share(&self, key: &str, one: &Value, other: &Value) -> bool {
        label(one, key).is_some() && label(one, key) == label(other, key)
    }

    /// Why the node may not run the pod, in the words of the filter that comes first.
    pub fn reject(&self, pod: &Value, node: &Value) -> Vec<String> {
        let one = |text: &str| vec![text.to_owned()];
        let cordon = json!({"key": "node.kubernetes.io/unschedulable", "effect": "NoSchedule"});
        if node["spec"]["unschedulable"] == true && !tolerates(pod, &cordon) {
            return one("node(s) were unschedulable");
        }
        if !tolerates_all(pod, node) {
            return one("node(s) had untolerated taint(s)");
        }
        if !node_affinity_matches(pod, node) {
            return one("node(s) didn't match Pod's node affinity/selector");
        }
        let held: Vec<(String, i64, String)> = self.pods_on(node).flat_map(ports).collect();
        let conflicts = |(protocol, number, ip): &(String, i64, String)| {
            held.iter().any(|(p, n, i)| p == protocol && n == number && (i == ip || i.is_empty() || ip.is_empty()))
        };
        if ports(pod).iter().any(conflicts) {
            return one("node(s) didn't have free ports for the requested pod ports");
        }
        let mut lacks = Vec::new();
        for resource in ["cpu", "memory", "example.org/gpu"] {
            let used: i64 = self.pods_on(node).map(|pod| requested(pod, resource, 0)).sum();
            let demanded = requested(pod, resource, 0);
            let offered = amount(&node["status"]["allocatable"], resource).unwrap_or(0);
            if demanded > 0 && demanded > offered - used {
                lacks.push(format!("Insufficient {resource}"));
            }
        }
        if self.pods_on(node).count() as i64 >= amount(&node["status"]["allocatable"], "pods").unwrap_or(0) {
            lacks.push("Too many pods".to_owned());
        }
        if !lacks.is_empty() {
            return lacks;
        }
        if let Some(text) = self.reject_spread(pod, node) {
            return one(text);
        }
        self.reject_affinity(pod, node).map_or_else(Vec::new, one)
    }

    /// Whether nobody's end could make the node run the pod.
    fn is_final(&self, pod: &Value, node: &Value) -> bool {
        let lacks = |resource: &str| {
            requested(pod, resource, 0) > amount(&node["status"]["allocatable"], resource).unwrap_or(0)
        };
        self.reject(pod, node).iter().any(|text| match text.as_str() {
            "Insufficient cpu" => lacks("cpu"),
            "Insufficient memory" => lacks("memory"),
            "Insufficient example.org/gpu" => lacks("example.org/gpu"),
            "node(s) were unschedulable"
            | "node(s) had untolerated taint(s)"
            | "node(s) didn't match Pod's node affinity/selector"
            | "node(s) didn't match pod topology spread constraints (missing required label)"
            | "node(s) didn't match pod affinity rules" => true,
            _ => false,
        })
    }

    /// The nodes whose pods count for a constraint, of those that have the labels of all.
    fn counting<'n>(
        &'n self,
        pod: &'n Value,
        all: &'n [Value],
        constraint: &'n Value,
    ) -> impl Iterator<Item = &'n Value> {
        self.nodes.iter().filter(move |node| {
            all.iter().all(|one| label(node, text(one, "/topologyKey")).is_some())
                && (constraint["nodeAffinityPolicy"] == "Ignore" || node_affinity_matches(pod, node))
                && (constraint["nodeTaintsPolicy"] != "Honor" || tolerates_all(pod, node))
        })
    }

    fn selected_on(&self, pod: &Value, constraint: &Value, node: &Value) -> i64 {
        let is_selected = |other: &&Value| {
            namespace(other) == namespace(pod)
                && other["metadata"]["deletionTimestamp"].is_null()
                && selects(&constraint["labelSelector"], &other["metadata"]["labels"])
        };
        self.pods_on(node).filter(is_selected).count() as i64
    }

    fn reject_spread(&self, pod: &Value, node: &Value) -> Option<&'static str> {
        let all = constraints(pod, "DoNotSchedule");
        for constraint in &all {
            let key = text(constraint, "/topologyKey");
            let Some(value) = label(node, key) else {
                return Some("node(s) didn't match pod topology spread constraints (missing required label)");
            };
            let mut domains: BTreeMap<&str, i64> = BTreeMap::new();
            for counting in self.counting(pod, &all, constraint) {
                *domains.entry(label(counting, key).unwrap()).or_default() +=
                    self.selected_on(pod, constraint, counting);
            }
            let is_few = (domains.len() as i64) < constraint["minDomains"].as_i64().unwrap_or(1);
            let fewest = if is_few { 0 } else { *domains.values().min().unwrap() };
            let own = i64::from(selects(&constraint["labelSelector"], &pod["metadata"]["labels"]));
            let there = domains.get(value).copied().unwrap_or(0);
            if there + own - fewest > constraint["maxSkew"].as_i64().unwrap() {
                return Some("node(s) didn't match pod topology spread constraints");
            }
        }
        None
    }

    fn reject_affinity(&self, pod: &Value, node: &Value) -> Option<&'static str> {
        let required = terms(pod, "podAffinity", REQUIRED);
        let meant_by_all = |other: &Value| required.iter().all(|term| self.means(pod, term, other));
        let near = |other: &Value, key: &str| self.node(other).is_some_and(|of| self.share(key, of, node));
        if !required.is_empty() {
            let key = |term: &Value| text(term, "/topologyKey").to_owned();
            let has_labels = required.iter().all(|term| label(node, &key(term)).is_some());
            let is_met = required
                .iter()
                .all(|term| self.pods.iter().any(|other| meant_by_all(other) && near(other, &key(term))));
            let is_anywhere = self.pods.iter().any(|other| {
                meant_by_all(other)
                    && self.node(other).is_some_and(|of| required.iter().any(|term| label(of, &key(term)).is_some()))
            });
            if !(has_labels && (is_met || !is_anywhere && meant_by_all(pod))) {
                return Some("node(s) didn't match pod affinity rules");
            }
        }
        let anti = terms(pod, "podAntiAffinity", REQUIRED);
        let repels = |term: &Value| {
            self.pods.iter().any(|other| self.means(pod, term, other) && near(other, text(term, "/topologyKey")))
        };
        if anti.iter().any(repels) {
            return Some("node(s) didn't match pod anti-affinity rules");
        }
        let is_repelled = self.pods.iter().any(|other| {
            let theirs = terms(other, "podAntiAffinity", REQUIRED);
            theirs.iter().any(|term| self.means(other, term, pod) && near(other, text(term, "/topologyKey")))
        });
        is_repelled.then_some("node(s) didn't satisfy existing pods anti-affinity rules")
    }

    /// The nodes that may run the pod.
    pub fn suitable(&self, pod: &Value) -> Vec<&Value> {
        self.nodes.iter().filter(|node| self.reject(pod, node).is_empty()).collect()
    }

    /// Why none may.
    pub fn message(&self, pod: &Value) -> String {
        let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
        for node in &self.nodes {
            for reason in self.reject(pod, node) {
                *reasons.entry(reason).or_default() += 1;
            }
        }
        let mut parts: Vec<String> = reasons.iter().map(|(reason, count)| format!("{count} {reason}")).collect();
        parts.sort();
        format!("0/{} nodes are available: {}.", self.nodes.len(), parts.join(", "))
    }

    /// The scores of nodes by name, of all of which the pod may run.
    pub fn scores(&self, pod: &Value) -> BTreeMap<String, i64> {
        let nodes = self.suitable(pod);
        let mut totals: Vec<i64> = vec![0; nodes.len()];
        let mut add = |weight: i64, scores: Vec<i64>| {
            totals.iter_mut().zip(scores).for_each(|(total, score)| *total += weight * score);
        };
        add(
            3,
            scale(
                nodes
                    .iter()
                    .map(|node| {
                        let soft = list(node, "/spec/taints")
                            .iter()
                            .filter(|taint| text(taint, "/effect") == "PreferNoSchedule");
                        soft.filter(|taint| !tolerates(pod, taint)).count() as i64
                    })
                    .collect(),
                true,
            ),
        );
        let preferred = terms(pod, "nodeAffinity", PREFERRED);
        add(
            2,
            scale(
                nodes
                    .iter()
                    .map(|node| {
                        let holding = preferred.iter().filter(|one| term_matches(&one["preference"], node));
                        holding.map(|one| one["weight"].as_i64().unwrap()).sum()
                    })
                    .collect(),
                false,
            ),
        );
        add(1, nodes.iter().map(|node| self.least_allocated(pod, node)).collect());
        add(1, nodes.iter().map(|node| self.balanced(pod, node)).collect());
        add(1, nodes.iter().map(|node| self.images(pod, node)).collect());
        add(2, self.affinity_scores(pod, &nodes));
        add(2, self.spread_scores(pod, &nodes));
        nodes.iter().map(|node| name(node).to_owned()).zip(totals).collect()
    }

    fn least_allocated(&self, pod: &Value, node: &Value) -> i64 {
        let part = |resource: &str, missing: i64| {
            let offered = amount(&node["status"]["allocatable"], resource).unwrap();
            let used: i64 = self.pods_on(node).map(|pod| requested(pod, resource, missing)).sum::<i64>()
                + requested(pod, resource, missing);
            (offered != 0).then(|| if used > offered { 0 } else { (offered - used) * 100 / offered })
        };
        let parts: Vec<i64> = [part("cpu", 100), part("memory", 200 << 20)].into_iter().flatten().collect();
        if parts.is_empty() { 0 } else { parts.iter().sum::<i64>() / parts.len() as i64 }
    }

    fn balanced(&self, pod: &Value, node: &Value) -> i64 {
        if requested(pod, "cpu", 0) == 0 && requested(pod, "memory", 0) == 0 {
            return 0;
        }
        let part = |resource: &str| {
            let offered = amount(&node["status"]["allocatable"], resource).unwrap();
            let used: i64 =
                self.pods_on(node).map(|pod| requested(pod, resource, 0)).sum::<i64>() + requested(pod, resource, 0);
            (offered != 0).then(|| (used as f64 / offered as f64).min(1.0))
        };
        let deviation = match (part("cpu"), part("memory")) {
            (Some(cpu), Some(memory)) => ((cpu - memory) / 2.0).abs(),
            _ => 0.0,
        };
        ((1.0 - deviation) * 100.0) as i64
    }

    fn images(&self, pod: &Value, node: &Value) -> i64 {
        let has = |node: &Value, image: &str| {
            list(node, "/status/images").iter().any(|one| list(one, "/names").iter().any(|name| name == image))
        };
        let size = |image: &str| {
            let mut all = self.nodes.iter().flat_map(|node| list(node, "/status/images"));
            let found = all.find(|one| list(one, "/names").iter().any(|name| name == image));
            found.and_then(|one| one["sizeBytes"].as_i64()).unwrap_or(0)
        };
        let containers = list(pod, "/spec/initContainers").iter().chain(list(pod, "/spec/containers"));
        let images: Vec<&str> = containers.map(|container| text(container, "/image")).collect();
        let sum: i64 = images
            .iter()
            .filter(|image| has(node, image))
            .map(|image| {
                let spread = self.nodes.iter().filter(|node| has(node, image)).count() as f64 / self.nodes.len() as f64;
                (size(image) as f64 * spread) as i64
            })
            .sum();
        let (min, max) = (23 << 20, (1000 << 20) * images.len() as i64);
        100 * (sum.clamp(min, max) - min) / (max - min)
    }

    fn affinity_scores(&self, pod: &Value, nodes: &[&Value]) -> Vec<i64> {
        let mut raw = vec![0_i64; nodes.len()];
        let mut touched = false;
        for other in &self.pods {
            let Some(of) = self.node(other) else { continue };
            let mut apply = |term: &Value, weight: i64| {
                let key = text(term, "/topologyKey");
                touched |= label(of, key).is_some();
                for (raw, node) in raw.iter_mut().zip(nodes) {
                    *raw += if self.share(key, of, node) { weight } else { 0 };
                }
            };
            for (kind, sign) in [("podAffinity", 1), ("podAntiAffinity", -1)] {
                for one in terms(pod, kind, PREFERRED) {
                    if self.means(pod, &one["podAffinityTerm"], other) {
                        apply(&one["podAffinityTerm"], sign * one["weight"].as_i64().unwrap());
                    }
                }
                for one in terms(other, kind, PREFERRED) {
                    if self.means(other, &one["podAffinityTerm"], pod) {
                        apply(&one["podAffinityTerm"], sign * one["weight"].as_i64().unwrap());
                    }
                }
            }
            for term in terms(other, "podAffinity", REQUIRED) {
                if self.means(other, &term, pod) {
                    apply(&term, 1);
                }
            }
        }
        let (Some(min), Some(max)) = (raw.iter().min().copied(), raw.iter().max().copied()) else { return raw };
        if !touched || min == max {
            return vec![0; nodes.len()];
        }
        raw.iter().map(|raw| (100.0 * ((raw - min) as f64 / (max - min) as f64)) as i64).collect()
    }

    fn spread_scores(&self, pod: &Value, nodes: &[&Value]) -> Vec<i64> {
        let is_own = !list(pod, "/spec/topologySpreadConstraints").is_empty();
        let all = if is_own { constraints(pod, "ScheduleAnyway") } else { self.default_constraints(pod) };
        if all.is_empty() {
            return vec![0; nodes.len()];
        }
        let demanded: &[Value] = if is_own { &all } else { &[] };
        let is_ignored = |node: &Value| !demanded.iter().all(|one| label(node, text(one, "/topologyKey")).is_some());
        let counted: Vec<&Value> = nodes.iter().copied().filter(|node| !is_ignored(node)).collect();
        let raw: Vec<i64> = nodes
            .iter()
            .map(|node| {
                let mut sum = 0.0;
                for constraint in &all {
                    let key = text(constraint, "/topologyKey");
                    let Some(value) = label(node, key) else { continue };
                    let (size, count) = if key == "kubernetes.io/hostname" {
                        (counted.len(), self.selected_on(pod, constraint, node))
                    } else {
                        let values: BTreeSet<Option<&str>> = counted.iter().map(|node| label(node, key)).collect();
                        let there =
                            self.counting(pod, demanded, constraint).filter(|other| label(other, key) == Some(value));
                        (values.len(), there.map(|other| self.selected_on(pod, constraint, other)).sum())
                    };
                    sum +=
                        count as f64 * ((size + 2) as f64).ln() + (constraint["maxSkew"].as_i64().unwrap() - 1) as f64;
                }
                if is_ignored(node) { 0 } else { sum.round() as i64 }
            })
            .collect();
        let scored = || nodes.iter().zip(&raw).filter(|(node, _)| !is_ignored(node)).map(|(_, raw)| *raw);
        let (min, max) = (scored().min().unwrap_or(0), scored().max().unwrap_or(0));
        nodes
            .iter()
            .zip(&raw)
            .map(|(node, raw)| match (is_ignored(node), max) {
                (true, _) => 0,
                (false, 0) => 100,
                _ => 100 * (max + min - raw) / max,
            })
            .collect()
    }

    fn default_constraints(&self, pod: &Value) -> Vec<Value> {
        let mut labels = serde_json::Map::new();
        for (of, selector) in &self.services {
            if of == namespace(pod) && selects(&json!({"matchLabels": selector}), &pod["metadata"]["labels"]) {
                labels.extend(selector.as_object().unwrap().clone());
            }
        }
        if labels.is_empty() {
            return Vec::new();
        }
        let constraint = |key: &str, skew: i64| json!({"topologyKey": key, "maxSkew": skew, "labelSelector": {"matchLabels": labels}});
        vec![constraint("kubernetes.io/hostname", 3), constraint("topology.kubernetes.io/zone", 5)]
    }

    /// The pods that must leave a node, the most important first, and how many budgets that breaks.
    pub fn victims(&self, pod: &Value, node: &Value) -> Option<(Vec<Value>, usize)> {
        if self.is_final(pod, node) {
            return None;
        }
        let mut potential: Vec<Value> =
            self.pods_on(node).filter(|one| priority(one) < priority(pod)).cloned().collect();
        potential.sort_by_key(importance);
        let without = |left: &[Value]| {
            let pods = self.pods.iter().filter(|one| !left.contains(one)).cloned().collect();
            Naive { pods, ..self.clone() }
        };
        if potential.is_empty() || !without(&potential).reject(pod, node).is_empty() {
            return None;
        }
        let mut allowed: Vec<i64> = self.budgets.iter().map(|(_, _, allowed)| *allowed).collect();
        let mut breaks = |victim: &Value| {
            let mut is_broken = false;
            for ((of, selector, _), allowed) in self.budgets.iter().zip(&mut allowed) {
                if of == namespace(victim) && selects(selector, &victim["metadata"]["labels"]) {
                    *allowed -= 1;
                    is_broken |= *allowed < 0;
                }
            }
            is_broken
        };
        let (breaking, others): (Vec<Value>, Vec<Value>) = potential.clone().into_iter().partition(|one| breaks(one));
        let mut left = potential;
        for one in breaking.iter().chain(&others) {
            let kept: Vec<Value> = left.iter().filter(|held| *held != one).cloned().collect();
            if without(&kept).reject(pod, node).is_empty() {
                left = kept;
            }
        }
        let violations = left.iter().filter(|one| breaking.contains(one)).count();
        (!left.is_empty()).then_some((left, violations))
    }
}

fn importance(pod: &Value) -> (i64, String, String) {
    (-priority(pod), text(pod, "/status/startTime").to_owned(), name(pod).to_owned())
}

/// What a node costs.
pub fn harm(victims: &[Value], violations: usize) -> (usize, i64, i128, usize, std::cmp::Reverse<String>) {
    let highest = victims.iter().map(priority).max().unwrap();
    let sum = victims.iter().map(|one| i128::from(priority(one)) + (1 << 31)).sum();
    let most = victims.iter().filter(|one| priority(one) == highest);
    let earliest = most.map(|one| text(one, "/status/startTime").to_owned()).min().unwrap();
    (violations, highest, sum, victims.len(), std::cmp::Reverse(earliest))
}

fn scale(scores: Vec<i64>, is_reversed: bool) -> Vec<i64> {
    let max = scores.iter().copied().max().unwrap_or(0);
    let scaled = scores.into_iter().map(|score| if max == 0 { 0 } else { 100 * score / max });
    scaled.map(|score| if is_reversed { 100 - score } else { score }).collect()
}
