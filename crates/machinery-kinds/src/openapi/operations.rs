//! What may be done with a custom resource, as documents show it.
//!
//! Its operations take the parameters that those of a built-in kind take, so they are copied out of the published document:
//! `leases`, which are in namespaces and can do everything that a custom resource can.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::{
    Form,
    schema::{Text, group_version_kind, quoted},
};
use crate::ResourceInfo;

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";
const SCALE: &str = "io.k8s.api.autoscaling.v1.Scale";

const ALL_LEASES: &str = "/apis/coordination.k8s.io/v1/leases";
const LEASES: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases";
const LEASE: &str = "/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases/{name}";

/// Parameters by what takes them, as JSON texts.
pub(super) struct Parameters {
    create: Vec<String>,
    update: Vec<String>,
    patch: Vec<String>,
    delete: Vec<String>,
    list: Vec<String>,
    /// Of a list over all namespaces, which has the common ones among its own.
    list_all: String,
    namespace: String,
    pretty: String,
    resource_version: String,
    /// Bodies of v2, where a body is a parameter; what is created and updated has its own.
    patch_body: Option<String>,
    delete_body: Option<String>,
}

type Raw<'d> = BTreeMap<String, &'d RawValue>;

impl Parameters {
    /// Reads them out of the `paths` of a published document.
    pub(super) fn read(paths: &Raw<'_>) -> Self {
        let map = |raw: &RawValue| -> BTreeMap<String, Box<RawValue>> {
            serde_json::from_str(raw.get()).expect("what is published is JSON")
        };
        let path = |name: &str| map(paths.get(name).expect("leases are published"));
        let list = |raw: &RawValue| -> Vec<String> {
            let items: Vec<&RawValue> = serde_json::from_str(raw.get()).expect("parameters are a list");
            items.into_iter().map(|item| item.get().to_owned()).collect()
        };
        let of = |path_name: &str, method: &str| list(&map(&path(path_name)[method])["parameters"]);
        let is_body =
            |parameter: &String| parameter.contains("\"in\":\"body\"") || parameter.contains("/parameters/body-");
        let without_body = |mut parameters: Vec<String>| {
            parameters.retain(|parameter| !is_body(parameter));
            parameters
        };
        let body_of = |method: &str| of(LEASE, method).into_iter().find(is_body);
        let named = |parameters: &[String], name: &str| -> String {
            let (inline, reference) = (format!("\"name\":\"{name}\""), format!("#/parameters/{name}-"));
            let found = parameters.iter().find(|text| text.contains(&inline) || text.contains(&reference));
            found.expect("leases have the parameter").clone()
        };
        let common = list(&path(LEASES)["parameters"]);
        let lists = of(LEASES, "get");
        Self {
            create: without_body(of(LEASES, "post")),
            update: without_body(of(LEASE, "put")),
            patch: without_body(of(LEASE, "patch")),
            delete: without_body(of(LEASE, "delete")),
            list_all: path(ALL_LEASES)["parameters"].get().to_owned(),
            namespace: named(&common, "namespace"),
            pretty: named(&common, "pretty"),
            resource_version: named(&lists, "resourceVersion"),
            list: lists,
            patch_body: body_of("patch"),
            delete_body: body_of("delete"),
        }
    }
}

/// What an operation does, in the words of documents.
#[derive(Clone, Copy)]
struct Act {
    method: &'static str,
    action: &'static str,
    verb: &'static str,
}

const LIST: Act = Act { method: "get", action: "list", verb: "list" };
const CREATE: Act = Act { method: "post", action: "post", verb: "create" };
const CLEAR: Act = Act { method: "delete", action: "deletecollection", verb: "deletecollection" };
const READ: Act = Act { method: "get", action: "get", verb: "read" };
const REPLACE: Act = Act { method: "put", action: "put", verb: "replace" };
const DELETE: Act = Act { method: "delete", action: "delete", verb: "delete" };
const PATCH: Act = Act { method: "patch", action: "patch", verb: "patch" };

/// Writes the paths of one resource.
pub(super) struct Operations<'r> {
    pub form: Form,
    pub resource: &'r ResourceInfo,
    pub parameters: &'r Parameters,
    /// Of its definition.
    pub name: &'r str,
    /// Of that of a list.
    pub list_name: &'r str,
}

impl Operations<'_> {
    pub(super) fn paths(&self) -> Vec<(String, String)> {
        let resource = self.resource;
        let root = format!("/apis/{}/{}", resource.group, resource.version);
        let mut paths = Vec::new();
        let mut collection = format!("{root}/{}", resource.plural);
        if resource.namespaced {
            let mut all = Text::new();
            all.raw("get", &self.operation(LIST, "", true));
            all.raw("parameters", &self.parameters.list_all);
            paths.push((collection, all.end()));
            collection = format!("{root}/namespaces/{{namespace}}/{}", resource.plural);
        }
        let item = format!("{collection}/{{name}}");
        paths.push((collection, self.path("", &[LIST, CREATE, CLEAR], false)));
        paths.push((item.clone(), self.path("", &[READ, REPLACE, DELETE, PATCH], true)));
        for subresource in &resource.subresources {
            paths.push((
                format!("{item}/{}", subresource.name),
                self.path(&subresource.name, &[READ, REPLACE, PATCH], true),
            ));
        }
        paths
    }

    fn path(&self, subresource: &str, acts: &[Act], is_item: bool) -> String {
        let mut text = Text::new();
        for act in acts {
            text.raw(act.method, &self.operation(*act, subresource, false));
        }
        let name = format!("name of the {}", self.resource.kind);
        let name = is_item.then(|| match self.form {
            Form::V2 => format!(
                r#"{{"uniqueItems":true,"type":"string","description":{},"name":"name","in":"path","required":true}}"#,
                quoted(&name)
            ),
            Form::V3 => format!(
                r#"{{"name":"name","in":"path","description":{},"required":true,"schema":{{"type":"string","uniqueItems":true}}}}"#,
                quoted(&name)
            ),
        });
        let namespace = self.resource.namespaced.then(|| self.parameters.namespace.clone());
        let common: Vec<String> = name.into_iter().chain(namespace).chain([self.parameters.pretty.clone()]).collect();
        text.raw("parameters", &array(&common));
        text.end()
    }

    fn operation(&self, act: Act, subresource: &str, is_for_all: bool) -> String {
        let kind = &self.resource.kind;
        // The name begins with its verb, and whose it is comes behind that.
        let (verb, within) = match act.verb {
            "deletecollection" => ("delete", "Collection"),
            verb => (verb, ""),
        };
        let what = if is_for_all {
            format!("{kind}ForAllNamespaces")
        } else {
            let namespaced = if self.resource.namespaced { "Namespaced" } else { "" };
            format!("{within}{namespaced}{kind}{}", identifier(subresource, true))
        };
        let group = self.resource.group.strip_suffix(".k8s.io").unwrap_or(&self.resource.group);
        let version = identifier(&self.resource.version, true);
        let id = format!("{verb}{}{version}{}", identifier(group, true), identifier(&what, true));
        let tag = format!("{}_{}", identifier(group, false), identifier(&self.resource.version, false));
        let description = self.description(act, subresource);
        let body = match subresource {
            "scale" => SCALE,
            _ => self.name,
        };
        let gvk = group_version_kind(self.form, self.resource, &self.resource.kind);
        let mut text = Text::new();
        match self.form {
            Form::V2 => {
                text.value("description", &description.into());
                let consumes = if act.method == "patch" { PATCHES_V2 } else { MEDIA };
                text.raw("consumes", consumes);
                text.raw("produces", MEDIA);
                text.raw("schemes", "[\"https\"]");
                text.raw("tags", &array(&[quoted(&tag)]));
                text.raw("operationId", &quoted(&id));
            }
            Form::V3 => {
                text.raw("tags", &array(&[quoted(&tag)]));
                text.value("description", &description.into());
                text.raw("operationId", &quoted(&id));
            }
        }
        self.parameters_of(act, body, is_for_all, &mut text);
        self.responses(act, body, &mut text);
        text.raw("x-kubernetes-action", &quoted(act.action));
        text.raw("x-kubernetes-group-version-kind", &gvk);
        text.end()
    }

    /// Parameters, and in v3 the body, which is none of them there.
    fn parameters_of(&self, act: Act, body: &str, is_for_all: bool, text: &mut Text) {
        let known = self.parameters;
        let mut parameters = match act.verb {
            // They are those of the path.
            "list" if is_for_all => Vec::new(),
            "list" | "deletecollection" => known.list.clone(),
            "create" => known.create.clone(),
            "read" => vec![known.resource_version.clone()],
            "replace" => known.update.clone(),
            "delete" => known.delete.clone(),
            _ => known.patch.clone(),
        };
        if self.form == Form::V2 {
            let own = || {
                let reference = self.form.reference(body);
                format!(r#"{{"name":"body","in":"body","required":true,"schema":{{"$ref":{reference}}}}}"#)
            };
            let body = match act.verb {
                "create" | "replace" => Some(own()),
                "delete" => known.delete_body.clone(),
                "patch" => known.patch_body.clone(),
                _ => None,
            };
            parameters.splice(0..0, body);
        }
        if !parameters.is_empty() {
            text.raw("parameters", &array(&parameters));
        }
        if self.form == Form::V2 {
            return;
        }
        let content = |media: &[&str], body: &str| -> String {
            let mut content = Text::new();
            for media in media {
                content.raw(media, &format!("{{\"schema\":{{\"$ref\":{}}}}}", self.form.reference(body)));
            }
            content.end()
        };
        let request = match act.verb {
            "create" | "replace" => format!("{{\"content\":{},\"required\":true}}", content(&JSON_YAML, body)),
            "patch" => format!("{{\"content\":{},\"required\":true}}", content(&PATCHES, &format!("{META}.Patch"))),
            "delete" => format!("{{\"content\":{}}}", content(&JSON_YAML, &format!("{META}.DeleteOptions"))),
            _ => return,
        };
        text.raw("requestBody", &request);
    }

    fn responses(&self, act: Act, body: &str, text: &mut Text) {
        let status = format!("{META}.Status");
        let (answer, codes): (&str, &[(&str, &str)]) = match act.verb {
            "list" => (self.list_name, &[OK]),
            "deletecollection" => (&status, &[OK]),
            "delete" => (&status, &[OK, ("202", "Accepted")]),
            "create" => (body, &[OK, ("201", "Created"), ("202", "Accepted")]),
            "replace" => (body, &[OK, ("201", "Created")]),
            _ => (body, &[OK]),
        };
        let reference = self.form.reference(answer);
        let mut responses = Text::new();
        for (code, why) in codes {
            let mut response = Text::new();
            response.raw("description", &quoted(why));
            match self.form {
                Form::V2 => response.raw("schema", &format!("{{\"$ref\":{reference}}}")),
                Form::V3 => {
                    let mut content = Text::new();
                    for media in JSON_YAML {
                        content.raw(media, &format!("{{\"schema\":{{\"$ref\":{reference}}}}}"));
                    }
                    response.raw("content", &content.end());
                }
            }
            responses.raw(code, &response.end());
        }
        responses.raw("401", r#"{"description":"Unauthorized"}"#);
        text.raw("responses", &responses.end());
    }

    fn description(&self, act: Act, subresource: &str) -> String {
        let kind = &self.resource.kind;
        let of = if subresource.is_empty() { String::new() } else { format!(" {subresource} of") };
        match act.verb {
            "list" => format!("list objects of kind {kind}"),
            "create" | "delete" => format!("{}{}{kind}", act.verb, article(kind)),
            "deletecollection" => format!("delete collection of {kind}"),
            "patch" => format!("partially update{of} the specified {kind}"),
            verb => format!("{verb}{of} the specified {kind}"),
        }
    }
}

const OK: (&str, &str) = ("200", "OK");
const JSON_YAML: [&str; 2] = ["application/json", "application/yaml"];
const MEDIA: &str = r#"["application/json","application/yaml"]"#;
const PATCHES: [&str; 3] =
    ["application/apply-patch+yaml", "application/json-patch+json", "application/merge-patch+json"];
const PATCHES_V2: &str =
    r#"["application/json-patch+json","application/merge-patch+json","application/apply-patch+yaml"]"#;

/// Plurals have no article, and `class` is none.
fn article(kind: &str) -> &'static str {
    if kind.ends_with('s') && !kind.ends_with("ss") {
        return " ";
    }
    if kind.starts_with(['a', 'e', 'i', 'o', 'u', 'A', 'E', 'I', 'O', 'U']) { " an " } else { " a " }
}

/// Letters, digits and `_` alone, the letter after anything else a capital.
fn identifier(text: &str, is_capital: bool) -> String {
    let (mut out, mut is_capital) = (String::new(), is_capital);
    for (at, char) in text.chars().enumerate() {
        if char.is_alphabetic() || char == '_' || (at > 0 && char.is_numeric()) {
            if is_capital {
                out.extend(char.to_uppercase());
            } else {
                out.push(char);
            }
            is_capital = false;
        } else {
            is_capital = true;
        }
    }
    out
}

fn array(items: &[String]) -> String {
    format!("[{}]", items.join(","))
}
