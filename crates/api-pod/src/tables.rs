//! The rows: types in the order in which a pod has them, fields by name.

use api_kube::CAPABILITIES;
use serde_json::Value;

use super::Does::{self, Fields, Harmless, Honoured, Judged, Keys, Only, Rejected};
use super::{Place, Row};

const fn both(field: &'static str, does: Does) -> Row {
    row(field, does, does)
}

/// What a process gets, a container of an image gets as well, unless the row says otherwise by [`Row::of_images`].
const fn row(field: &'static str, process: Does, wasm: Does) -> Row {
    Row { field, container: process, process, wasm }
}

impl Row {
    const fn of_images(mut self, does: Does) -> Self {
        self.container = does;
        self
    }
}

/// For those who choose a node. On the node, the choice is made.
const PLACEMENT: Does = Harmless("is for whoever chooses the node");

/// Whatever only images need.
const IMAGES: Does = Harmless("runs files of the node; nothing is pulled");

const OTHER_VOLUMES: Does = Rejected(
    "does not mount volumes of this kind; configMap, secret, emptyDir, hostPath, persistentVolumeClaim, downwardAPI and projected are served",
);

const RESOURCES: Does = Keys(
    &["cpu", "memory", "ephemeral-storage"],
    "limits cpu, memory and ephemeral-storage; leave other resources out",
);

const NO_APP_ARMOR: Does = Only(&["Unconfined"], "loads no AppArmor profile; use Unconfined, or leave it out");

const NO_SELINUX: Does = Rejected("sets no SELinux label; leave it out");

const NO_WINDOWS: Does = Rejected("runs on Linux only; leave it out");

const NO_PROFILE: Does = Rejected("loads no profile of the node; use RuntimeDefault");

const NO_ATTACH: Does = Rejected("serves no attach and no terminal; leave it out");

const NO_NETWORK: Does = Rejected("gives a module no network; leave it out");

const NO_PROBED_NETWORK: Does = Rejected("gives a module no network to be probed by; use exec with another module");

const LINUX_CAPABILITIES: Does =
    Judged(are_capabilities, "`ALL`, and those of Linux", "knows the capabilities of Linux, without CAP_, and ALL");

/// What only a process has.
const NOT_A_PROCESS: Does = Harmless("runs modules, which have no such thing to begin with");

/// What only pods of images have.
const NOT_EPHEMERAL: Does = Harmless("does not run them, and says so in the pod's status");

/// What the API itself takes of no container that is added to a running pod.
const NOT_ADDED: Does = Rejected("does not have it for a container that is added to a running pod; leave it out");

/// For each type that a pod is made of, its fields.
pub const TABLES: &[(&str, &[Row])] = &[
    ("PodSpec", POD_SPEC),
    ("PodOS", &[both("name", Only(&["linux"], "runs on Linux only; use linux, or leave it out"))]),
    ("PodSecurityContext", POD_SECURITY_CONTEXT),
    ("Sysctl", &[both("name", Honoured), both("value", Honoured)]),
    ("Container", CONTAINER),
    ("EphemeralContainer", EPHEMERAL_CONTAINER),
    ("EnvVar", &[both("name", Honoured), both("value", Honoured), both("valueFrom", Fields("EnvVarSource"))]),
    (
        "EnvVarSource",
        &[
            both("configMapKeyRef", Fields("ConfigMapKeySelector")),
            both("fieldRef", Fields("ObjectFieldSelector")),
            both("fileKeyRef", Rejected("reads no variables from files; use a ConfigMap or a Secret")),
            both("resourceFieldRef", Fields("ResourceFieldSelector")),
            both("secretKeyRef", Fields("SecretKeySelector")),
        ],
    ),
    ("ConfigMapKeySelector", &[both("key", Honoured), both("name", Honoured), both("optional", Honoured)]),
    ("SecretKeySelector", &[both("key", Honoured), both("name", Honoured), both("optional", Honoured)]),
    ("ObjectFieldSelector", &[both("apiVersion", Harmless("knows one version of a pod")), both("fieldPath", Honoured)]),
    (
        "ResourceFieldSelector",
        &[
            both("containerName", Honoured),
            both("divisor", Honoured),
            both(
                "resource",
                Only(
                    &[
                        "limits.cpu",
                        "limits.memory",
                        "limits.ephemeral-storage",
                        "requests.cpu",
                        "requests.memory",
                        "requests.ephemeral-storage",
                    ],
                    "knows the limits and requests of cpu, memory and ephemeral-storage only",
                ),
            ),
        ],
    ),
    (
        "EnvFromSource",
        &[
            both("configMapRef", Fields("ConfigMapEnvSource")),
            both("prefix", Honoured),
            both("secretRef", Fields("SecretEnvSource")),
        ],
    ),
    ("ConfigMapEnvSource", &[both("name", Honoured), both("optional", Honoured)]),
    ("SecretEnvSource", &[both("name", Honoured), both("optional", Honoured)]),
    ("HostAlias", &[both("hostnames", Honoured), both("ip", Honoured)]),
    (
        "PodDNSConfig",
        &[both("nameservers", Honoured), both("options", Fields("PodDNSConfigOption")), both("searches", Honoured)],
    ),
    ("PodDNSConfigOption", &[both("name", Honoured), both("value", Honoured)]),
    ("LocalObjectReference", &[both("name", Honoured)]),
    (
        "Lifecycle",
        &[
            both("postStart", Fields("LifecycleHandler")),
            both("preStop", Fields("LifecycleHandler")),
            row("stopSignal", Honoured, Only(&["SIGTERM"], "stops modules with SIGTERM; leave it out")),
        ],
    ),
    (
        "LifecycleHandler",
        &[
            both("exec", Fields("ExecAction")),
            row("httpGet", Fields("HTTPGetAction"), NO_PROBED_NETWORK),
            both("sleep", Fields("SleepAction")),
            both("tcpSocket", Rejected("calls programs and URLs, which a connection is not; use exec or httpGet")),
        ],
    ),
    ("SleepAction", &[both("seconds", Honoured)]),
    (
        "ExecAction",
        &[row(
            "command",
            Honoured,
            Judged(
                is_module_command,
                "modules of the node",
                "runs modules only: the command must begin with the path of a .wasm file",
            ),
        )],
    ),
    (
        "Probe",
        &[
            both("exec", Fields("ExecAction")),
            both("failureThreshold", Honoured),
            row("grpc", Fields("GRPCAction"), NO_PROBED_NETWORK),
            row("httpGet", Fields("HTTPGetAction"), NO_PROBED_NETWORK),
            both("initialDelaySeconds", Honoured),
            both("periodSeconds", Honoured),
            both("successThreshold", Honoured),
            row("tcpSocket", Fields("TCPSocketAction"), NO_PROBED_NETWORK),
            both("terminationGracePeriodSeconds", Honoured),
            both("timeoutSeconds", Honoured),
        ],
    ),
    (
        "HTTPGetAction",
        &[
            both("host", Honoured),
            both("httpHeaders", Fields("HTTPHeader")),
            both("path", Honoured),
            both("port", Honoured),
            both("scheme", Honoured),
        ],
    ),
    ("GRPCAction", &[both("port", Honoured), both("service", Honoured)]),
    ("HTTPHeader", &[both("name", Honoured), both("value", Honoured)]),
    ("TCPSocketAction", &[both("host", Honoured), both("port", Honoured)]),
    (
        "ContainerPort",
        &[
            row("containerPort", Honoured, Harmless("gives a module no network, and lists its ports only")),
            row("hostIP", Honoured, NO_NETWORK),
            row("hostPort", Honoured, NO_NETWORK),
            both("name", Honoured),
            both("protocol", Honoured),
        ],
    ),
    (
        "ResourceRequirements",
        &[
            both("claims", Rejected("has no devices to claim; leave it out")),
            both("limits", RESOURCES),
            both("requests", RESOURCES),
        ],
    ),
    ("ContainerResizePolicy", &[both("resourceName", Honoured), both("restartPolicy", Honoured)]),
    ("SecurityContext", SECURITY_CONTEXT),
    (
        "AppArmorProfile",
        &[
            both("localhostProfile", Rejected("loads no AppArmor profile")).of_images(Honoured),
            both("type", NO_APP_ARMOR).of_images(Only(
                &["Localhost", "Unconfined"],
                "has no AppArmor profile of its own; use Localhost with one that the node has loaded, or leave it out",
            )),
        ],
    ),
    (
        "SeccompProfile",
        &[
            row("localhostProfile", Honoured, NO_PROFILE),
            row(
                "type",
                Honoured,
                Only(&["RuntimeDefault"], "filters the system calls of each module's process; use RuntimeDefault"),
            ),
        ],
    ),
    (
        "Capabilities",
        &[
            row("add", LINUX_CAPABILITIES, Rejected("gives no capability to a module; leave it out")),
            row("drop", LINUX_CAPABILITIES, NOT_A_PROCESS),
        ],
    ),
    (
        "VolumeMount",
        &[
            both("mountPath", Honoured),
            both(
                "mountPropagation",
                Only(
                    &["None"],
                    "shows a container its volumes as they were when it started; use None, or leave it out",
                ),
            )
            .of_images(Only(
                &["None", "HostToContainer", "Bidirectional"],
                "knows None, HostToContainer and Bidirectional",
            )),
            both("name", Honoured),
            both("readOnly", Honoured),
            both(
                "recursiveReadOnly",
                Only(
                    &["Disabled", "IfPossible"],
                    "makes the volume itself read-only, not what is mounted below it; use IfPossible, or leave it out",
                ),
            ),
            both("subPath", Honoured),
            both("subPathExpr", Honoured),
        ],
    ),
    ("Volume", VOLUME),
    (
        "EmptyDirVolumeSource",
        &[
            both("medium", Only(&["Memory"], "has no huge pages; use Memory, or leave it out")),
            both("sizeLimit", Honoured),
        ],
    ),
    (
        "ImageVolumeSource",
        &[both("pullPolicy", OTHER_VOLUMES).of_images(Honoured), both("reference", OTHER_VOLUMES).of_images(Honoured)],
    ),
    ("HostPathVolumeSource", &[both("path", Honoured), both("type", Honoured)]),
    ("PersistentVolumeClaimVolumeSource", &[both("claimName", Honoured), both("readOnly", Honoured)]),
    (
        "ConfigMapVolumeSource",
        &[
            both("defaultMode", Honoured),
            both("items", Fields("KeyToPath")),
            both("name", Honoured),
            both("optional", Honoured),
        ],
    ),
    (
        "SecretVolumeSource",
        &[
            both("defaultMode", Honoured),
            both("items", Fields("KeyToPath")),
            both("optional", Honoured),
            both("secretName", Honoured),
        ],
    ),
    ("KeyToPath", &[both("key", Honoured), both("mode", Honoured), both("path", Honoured)]),
    ("DownwardAPIVolumeSource", &[both("defaultMode", Honoured), both("items", Fields("DownwardAPIVolumeFile"))]),
    (
        "DownwardAPIVolumeFile",
        &[
            both("fieldRef", Fields("ObjectFieldSelector")),
            both("mode", Honoured),
            both("path", Honoured),
            both("resourceFieldRef", Fields("ResourceFieldSelector")),
        ],
    ),
    ("ProjectedVolumeSource", &[both("defaultMode", Honoured), both("sources", Fields("VolumeProjection"))]),
    (
        "VolumeProjection",
        &[
            both(
                "clusterTrustBundle",
                Rejected("projects no ClusterTrustBundle; put the certificates into a ConfigMap"),
            ),
            both("configMap", Fields("ConfigMapProjection")),
            both("downwardAPI", Fields("DownwardAPIProjection")),
            both(
                "podCertificate",
                Rejected("requests no certificates for pods; use a serviceAccountToken or a Secret"),
            ),
            both("secret", Fields("SecretProjection")),
            both("serviceAccountToken", Fields("ServiceAccountTokenProjection")),
        ],
    ),
    ("ConfigMapProjection", &[both("items", Fields("KeyToPath")), both("name", Honoured), both("optional", Honoured)]),
    ("SecretProjection", &[both("items", Fields("KeyToPath")), both("name", Honoured), both("optional", Honoured)]),
    ("DownwardAPIProjection", &[both("items", Fields("DownwardAPIVolumeFile"))]),
    (
        "ServiceAccountTokenProjection",
        &[both("audience", Honoured), both("expirationSeconds", Honoured), both("path", Honoured)],
    ),
];

const POD_SPEC: &[Row] = &[
    both("activeDeadlineSeconds", Honoured),
    both("affinity", PLACEMENT),
    both("automountServiceAccountToken", Honoured),
    both("containers", Fields("Container")),
    both("dnsConfig", Rejected("gives a pod no resolver of its own, it has the node's; leave it out"))
        .of_images(Fields("PodDNSConfig")),
    both(
        "dnsPolicy",
        Only(
            &["ClusterFirst", "ClusterFirstWithHostNet", "Default"],
            "gives a pod no resolver of its own, it has the node's; use Default, or leave it out",
        ),
    )
    .of_images(Honoured),
    both("enableServiceLinks", Harmless("gives variables of the service kubernetes only, whatever it says"))
        .of_images(Honoured),
    both("ephemeralContainers", NOT_EPHEMERAL).of_images(Fields("EphemeralContainer")),
    both("hostAliases", Rejected("gives a pod no /etc/hosts of its own, it has the node's; leave it out"))
        .of_images(Fields("HostAlias")),
    both("hostIPC", Rejected("does not share this namespace with the host")).of_images(Honoured),
    row("hostNetwork", Honoured, NO_NETWORK),
    both("hostPID", Rejected("does not share this namespace with the host")).of_images(Honoured),
    both("hostUsers", Only(&["true"], "has the node's users; use true, or leave it out")).of_images(Honoured),
    row("hostname", Honoured, NOT_A_PROCESS),
    both("hostnameOverride", Rejected("does not know this field; use hostname")),
    both("imagePullSecrets", IMAGES).of_images(Fields("LocalObjectReference")),
    both("initContainers", Fields("Container")),
    both("nodeName", Honoured),
    both("nodeSelector", PLACEMENT),
    both("os", Fields("PodOS")),
    both("overhead", PLACEMENT),
    both("preemptionPolicy", PLACEMENT),
    both("priority", PLACEMENT),
    both("priorityClassName", PLACEMENT),
    both("readinessGates", Rejected("waits for no conditions of others; use a readinessProbe")),
    both("resourceClaims", Rejected("has no devices to claim; leave it out")),
    both("resources", Rejected("limits containers, not a pod as a whole; set the resources of its containers")),
    both("restartPolicy", Honoured),
    both("runtimeClassName", Honoured),
    both("schedulerName", PLACEMENT),
    both("schedulingGates", PLACEMENT),
    both("schedulingGroup", PLACEMENT),
    both("securityContext", Fields("PodSecurityContext")),
    both("serviceAccount", Harmless("reads serviceAccountName, which the API sets to the same")),
    both("serviceAccountName", Honoured),
    both("setHostnameAsFQDN", Rejected("has no domain for pods; leave it out")).of_images(Honoured),
    both(
        "shareProcessNamespace",
        Rejected("gives each container processes of its own; run both programs in one container, or leave it out"),
    )
    .of_images(Honoured),
    row("subdomain", Honoured, NOT_A_PROCESS),
    both("terminationGracePeriodSeconds", Honoured),
    both("tolerations", PLACEMENT),
    both("topologySpreadConstraints", PLACEMENT),
    both("volumes", Fields("Volume")),
];

const POD_SECURITY_CONTEXT: &[Row] = &[
    both("appArmorProfile", Fields("AppArmorProfile")),
    both("fsGroup", Honoured),
    both("fsGroupChangePolicy", Harmless("creates volumes with their group, and changes none that was there before")),
    both("runAsGroup", Honoured),
    both("runAsNonRoot", Honoured),
    both("runAsUser", Honoured),
    both("seLinuxChangePolicy", NO_SELINUX),
    both("seLinuxOptions", NO_SELINUX),
    both("seccompProfile", Fields("SeccompProfile")),
    both("supplementalGroups", Honoured),
    both("supplementalGroupsPolicy", Harmless("has no image whose groups could be added"))
        .of_images(Only(&["Merge"], "adds the groups that the image has for the user; use Merge, or leave it out")),
    both("sysctls", Rejected("has the node's kernel parameters; set them on the node")).of_images(Fields("Sysctl")),
    both("windowsOptions", NO_WINDOWS),
];

const CONTAINER: &[Row] = &[
    both("args", Honoured),
    both("command", Honoured),
    both("env", Fields("EnvVar")),
    both("envFrom", Fields("EnvFromSource")),
    both(
        "image",
        Judged(is_file_of_the_node, "files of the node", "runs files of the node; it must begin with file:///"),
    )
    .of_images(Honoured),
    both("imagePullPolicy", IMAGES).of_images(Honoured),
    both("lifecycle", Fields("Lifecycle")),
    both("livenessProbe", Fields("Probe")),
    both("name", Honoured),
    both("ports", Fields("ContainerPort")),
    both("readinessProbe", Fields("Probe")),
    both("resizePolicy", Harmless("does not resize a container that runs")).of_images(Fields("ContainerResizePolicy")),
    both("resources", Fields("ResourceRequirements")),
    both(
        "restartPolicy",
        Judged(
            is_sidecar,
            "`Always` of an init container",
            "restarts containers by the pod's policy; Always, of an init container, makes a sidecar of it",
        ),
    ),
    both(
        "restartPolicyRules",
        Rejected("restarts containers by the pod's policy, whatever their exit code; leave it out"),
    ),
    both("securityContext", Fields("SecurityContext")),
    both("startupProbe", Fields("Probe")),
    both("stdin", NO_ATTACH).of_images(Honoured),
    both("stdinOnce", NO_ATTACH).of_images(Harmless("serves no attach: nobody's input ends")),
    row(
        "terminationMessagePath",
        Honoured,
        Only(&["/dev/termination-log"], "shows a module no file for its last words; leave it out"),
    ),
    both("terminationMessagePolicy", Honoured),
    both("tty", NO_ATTACH).of_images(Honoured),
    both("volumeDevices", Rejected("has no block devices")),
    both("volumeMounts", Fields("VolumeMount")),
    row("workingDir", Honoured, Rejected("runs modules, which have no working directory; use absolute paths")),
];

const fn added(field: &'static str, does: Does) -> Row {
    both(field, NOT_EPHEMERAL).of_images(does)
}

const EPHEMERAL_CONTAINER: &[Row] = &[
    added("args", Honoured),
    added("command", Honoured),
    added("env", Fields("EnvVar")),
    added("envFrom", Fields("EnvFromSource")),
    added("image", Honoured),
    added("imagePullPolicy", Honoured),
    added("lifecycle", NOT_ADDED),
    added("livenessProbe", NOT_ADDED),
    added("name", Honoured),
    added("ports", NOT_ADDED),
    added("readinessProbe", NOT_ADDED),
    added("resizePolicy", NOT_ADDED),
    added("resources", NOT_ADDED),
    added("restartPolicy", NOT_ADDED),
    added("restartPolicyRules", NOT_ADDED),
    added("securityContext", Fields("SecurityContext")),
    added("startupProbe", NOT_ADDED),
    added("stdin", Honoured),
    added("stdinOnce", Harmless("serves no attach: nobody's input ends")),
    added("targetContainerName", Honoured),
    added("terminationMessagePath", Honoured),
    added("terminationMessagePolicy", Honoured),
    added("tty", Honoured),
    added("volumeDevices", NOT_ADDED),
    added("volumeMounts", Fields("VolumeMount")),
    added("workingDir", Honoured),
];

const SECURITY_CONTEXT: &[Row] = &[
    row("allowPrivilegeEscalation", Honoured, NOT_A_PROCESS),
    both("appArmorProfile", Fields("AppArmorProfile")),
    both("capabilities", Fields("Capabilities")),
    row("privileged", Honoured, Rejected("gives no further rights to a module")),
    row("procMount", Honoured, NOT_A_PROCESS),
    row("readOnlyRootFilesystem", Honoured, Harmless("shows a module its volumes only")),
    both("runAsGroup", Honoured),
    both("runAsNonRoot", Honoured),
    both("runAsUser", Honoured),
    both("seLinuxOptions", NO_SELINUX),
    both("seccompProfile", Fields("SeccompProfile")),
    both("windowsOptions", NO_WINDOWS),
];

const VOLUME: &[Row] = &[
    both("awsElasticBlockStore", OTHER_VOLUMES),
    both("azureDisk", OTHER_VOLUMES),
    both("azureFile", OTHER_VOLUMES),
    both("cephfs", OTHER_VOLUMES),
    both("cinder", OTHER_VOLUMES),
    both("configMap", Fields("ConfigMapVolumeSource")),
    both("csi", OTHER_VOLUMES),
    both("downwardAPI", Fields("DownwardAPIVolumeSource")),
    both("emptyDir", Fields("EmptyDirVolumeSource")),
    both("ephemeral", OTHER_VOLUMES),
    both("fc", OTHER_VOLUMES),
    both("flexVolume", OTHER_VOLUMES),
    both("flocker", OTHER_VOLUMES),
    both("gcePersistentDisk", OTHER_VOLUMES),
    both("gitRepo", OTHER_VOLUMES),
    both("glusterfs", OTHER_VOLUMES),
    both("hostPath", Fields("HostPathVolumeSource")),
    both("image", OTHER_VOLUMES).of_images(Fields("ImageVolumeSource")),
    both("iscsi", OTHER_VOLUMES),
    both("name", Honoured),
    both("nfs", OTHER_VOLUMES),
    both("persistentVolumeClaim", Fields("PersistentVolumeClaimVolumeSource")),
    both("photonPersistentDisk", OTHER_VOLUMES),
    both("portworxVolume", OTHER_VOLUMES),
    both("projected", Fields("ProjectedVolumeSource")),
    both("quobyte", OTHER_VOLUMES),
    both("rbd", OTHER_VOLUMES),
    both("scaleIO", OTHER_VOLUMES),
    both("secret", Fields("SecretVolumeSource")),
    both("storageos", OTHER_VOLUMES),
    both("vsphereVolume", OTHER_VOLUMES),
];

fn is_file_of_the_node(place: &Place<'_>) -> bool {
    place.value.as_str().is_some_and(|image| image.starts_with("file:///"))
}

fn is_module_command(place: &Place<'_>) -> bool {
    let program = place.value.get(0).and_then(Value::as_str).unwrap_or_default();
    program.starts_with('/') && program.ends_with(".wasm")
}

fn is_sidecar(place: &Place<'_>) -> bool {
    place.value == "Always" && place.path.contains(".initContainers[")
}

fn are_capabilities(place: &Place<'_>) -> bool {
    let is_one = |name: &str| name == "ALL" || CAPABILITIES.contains(&name);
    place.value.as_array().is_some_and(|names| names.iter().all(|name| name.as_str().is_some_and(is_one)))
}
