//! The command line: which role, with which settings. Nothing is decided here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// A self-reliant Kubernetes edge node, the devices around it, and the hub of a fleet, in one program.
#[derive(Debug, Parser)]
#[command(name = "selvedge", version, disable_help_subcommand = true)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The roles and tools.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run hub, node and edge in this process
    #[cfg(all(feature = "hub", feature = "node", feature = "edge"))]
    Up(UpArgs),
    /// Run the cloud side: Kubernetes API, controllers, telemetry
    #[cfg(feature = "hub")]
    Hub(HubArgs),
    /// Run a gateway: join a hub, run its pods, connect its devices
    #[cfg(feature = "node")]
    Node(NodeArgs),
    /// Run the data plane: devices, rules, export
    #[cfg(feature = "edge")]
    Edge(EdgeArgs),
    /// Join tokens of the hub in this data directory
    #[command(subcommand)]
    Token(TokenCommand),
    /// Print the administrator's kubeconfig of the hub in this data directory
    Kubeconfig(KubeconfigArgs),
    /// Images of containers on the node in this data directory
    #[cfg(feature = "node")]
    #[command(subcommand)]
    Image(ImageCommand),
    /// What runs, and what is wrong
    Status(StatusArgs),
    /// Stop the pods of this data directory and remove what Selvedge keeps there
    Reset(ResetArgs),
    /// The version of the program and of the Kubernetes API that it serves
    Version,
    /// Runs one WebAssembly program; started by the shim
    #[command(hide = true)]
    #[cfg(feature = "wasm")]
    WasmWorker(RawArgs),
    /// Compiles one WebAssembly program; started by the node
    #[command(hide = true)]
    #[cfg(feature = "wasm")]
    WasmCompile(RawArgs),
}

/// Settings that every role has.
#[derive(Args, Clone, Debug)]
pub struct RoleArgs {
    /// Where state is kept [default: /var/lib/selvedge as root, else $XDG_DATA_HOME/selvedge]
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// YAML file with settings; every key is also an environment variable, such as SELVEDGE_HUB_LISTEN
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Read the settings, name every mistake in them, and stop
    #[arg(long)]
    pub check_config: bool,
    /// Which ports to listen on
    #[arg(long, value_enum, default_value_t = PortChoice::Default)]
    pub ports: PortChoice,
}

/// How listeners choose their ports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum PortChoice {
    /// The ports that the settings name
    #[default]
    Default,
    /// Free ports; they stand in DATA_DIR/ports.json
    Ephemeral,
}

/// `selvedge up`.
#[derive(Args, Clone, Debug)]
pub struct UpArgs {
    #[command(flatten)]
    pub role: RoleArgs,
    /// Apply the manifests of this directory, with NODE_NAME and EXAMPLE_DIR filled in
    #[arg(long, value_name = "DIR")]
    pub example: Option<PathBuf>,
    /// Name of the node [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
}

/// `selvedge hub`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct HubArgs {
    #[command(subcommand)]
    pub command: Option<HubCommand>,
    #[command(flatten)]
    pub role: RoleArgs,
}

/// What can be done with the state of a hub.
#[derive(Clone, Debug, Subcommand)]
pub enum HubCommand {
    /// Write the objects and keys of a hub to a file, while it runs or not
    Backup(BackupArgs),
    /// Make a hub of a backup, in an empty data directory
    Restore(RestoreArgs),
}

/// `selvedge hub backup`.
#[derive(Args, Clone, Debug)]
pub struct BackupArgs {
    /// The hub's data directory
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// The file to write, readable by its owner alone, for it holds the keys of the hub; one that is there is replaced. `-` is
    /// standard output
    #[arg(long, value_name = "FILE")]
    pub to: PathBuf,
}

/// `selvedge hub restore`.
#[derive(Args, Clone, Debug)]
pub struct RestoreArgs {
    /// An empty or new data directory
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Only read the backup, check every part of it and say what it holds
    #[arg(long)]
    pub check: bool,
    /// The backup; `-` is standard input
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
}

/// `selvedge node`.
#[derive(Args, Clone, Debug)]
#[command(args_conflicts_with_subcommands = true)]
pub struct NodeArgs {
    #[command(subcommand)]
    pub command: Option<NodeCommand>,
    #[command(flatten)]
    pub role: RoleArgs,
    /// URL of the hub, port included; may be given several times
    #[arg(long, value_name = "URL")]
    pub hub: Vec<String>,
    /// Join token from `selvedge token create`; not needed once the node has joined
    #[arg(long, value_name = "TOKEN", env = "SELVEDGE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// File with the CA of the hub or cluster, where the token does not say which that is
    #[arg(long, value_name = "FILE")]
    pub ca: Option<PathBuf>,
    /// Name of the node [default: this machine's name]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
}

/// What can be decided at a running node.
#[derive(Clone, Debug, Subcommand)]
pub enum NodeCommand {
    /// Stop the pods that run on because the hub was restored, or is another one, and does not know them
    AcceptHub(AcceptHubArgs),
    /// Keep what runs on this node as it is: rollouts leave it out until updates are released
    HoldUpdates(HoldUpdatesArgs),
    /// Let rollouts update this node again
    ReleaseUpdates(ReleaseUpdatesArgs),
}

/// `selvedge node hold-updates`.
#[derive(Args, Clone, Debug)]
pub struct HoldUpdatesArgs {
    /// Data directory of the node
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// For how long, as a Go duration [default: until they are released]
    #[arg(long = "for", value_name = "DURATION", allow_hyphen_values = true)]
    pub hold_for: Option<String>,
}

/// `selvedge node release-updates`.
#[derive(Args, Clone, Debug)]
pub struct ReleaseUpdatesArgs {
    /// Data directory of the node
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `selvedge node accept-hub`.
#[derive(Args, Clone, Debug)]
pub struct AcceptHubArgs {
    /// Data directory of the node
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `selvedge edge`.
#[derive(Args, Clone, Debug)]
pub struct EdgeArgs {
    #[command(flatten)]
    pub role: RoleArgs,
    /// Directory of a joined node: take the assignment and the identity of that node
    #[arg(long, value_name = "DIR")]
    pub node_dir: Option<PathBuf>,
}

/// `selvedge token`.
#[derive(Debug, Subcommand)]
pub enum TokenCommand {
    /// Make a token with which a node can join
    Create(TokenCreateArgs),
}

/// `selvedge token create`.
#[derive(Args, Debug)]
pub struct TokenCreateArgs {
    /// The hub's data directory
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// How long it may be used, as a Go duration
    #[arg(long, value_name = "DURATION", default_value = "24h", allow_hyphen_values = true)]
    pub ttl: String,
    /// The only node that may join with it; it may replace a box that has the name [default: the first that uses it]
    #[arg(long, value_name = "NAME")]
    pub node_name: Option<String>,
    /// How many boxes may join with it
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub uses: u16,
    /// A label of the nodes that join with it; may be given several times
    #[arg(long = "label", value_name = "KEY=VALUE")]
    pub labels: Vec<String>,
}

/// `selvedge kubeconfig`.
#[derive(Args, Debug)]
pub struct KubeconfigArgs {
    /// The hub's data directory
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// URL under which the hub is reached where the file is used [default: this machine's loopback]
    #[arg(long, value_name = "URL")]
    pub server: Option<String>,
}

/// `selvedge image`.
#[derive(Debug, Subcommand)]
#[cfg(feature = "node")]
pub enum ImageCommand {
    /// Fetch an image from its registry
    Pull(ImagePullArgs),
    /// Take the images of an archive: a tar of `docker save` or an OCI layout, or a directory with one
    Import(ImageImportArgs),
    /// Write an image as a tar of an OCI layout
    Export(ImageExportArgs),
    /// List images
    Ls(ImageListArgs),
    /// Remove names, and images that no container uses with their last name
    Rm(ImageRemoveArgs),
}

/// Where the images are.
#[derive(Args, Clone, Debug)]
#[cfg(feature = "node")]
pub struct ImageStoreArgs {
    /// Data directory of the node; it may run or not
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
}

/// `selvedge image pull`.
#[derive(Args, Debug)]
#[cfg(feature = "node")]
pub struct ImagePullArgs {
    #[command(flatten)]
    pub store: ImageStoreArgs,
    /// YAML file with the node's settings, for a node that does not run: `registriesFile` is what counts
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Name, such as `nginx:1.27` or `registry.example:5000/app@sha256:…`
    #[arg(value_name = "IMAGE")]
    pub image: String,
}

/// `selvedge image import`.
#[derive(Args, Debug)]
#[cfg(feature = "node")]
pub struct ImageImportArgs {
    #[command(flatten)]
    pub store: ImageStoreArgs,
    /// Archives or directories
    #[arg(value_name = "PATH", required = true)]
    pub paths: Vec<PathBuf>,
}

/// `selvedge image export`.
#[derive(Args, Debug)]
#[cfg(feature = "node")]
pub struct ImageExportArgs {
    #[command(flatten)]
    pub store: ImageStoreArgs,
    /// Name or id
    #[arg(value_name = "IMAGE")]
    pub image: String,
    /// The tar to write; one that is there is replaced
    #[arg(value_name = "FILE")]
    pub path: PathBuf,
}

/// `selvedge image ls`.
#[derive(Args, Debug)]
#[cfg(feature = "node")]
pub struct ImageListArgs {
    #[command(flatten)]
    pub store: ImageStoreArgs,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// `selvedge image rm`.
#[derive(Args, Debug)]
#[cfg(feature = "node")]
pub struct ImageRemoveArgs {
    #[command(flatten)]
    pub store: ImageStoreArgs,
    /// Names or ids
    #[arg(value_name = "IMAGE", required = true)]
    pub images: Vec<String>,
}

/// `selvedge status`.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// The data directory of the hub or node
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = Output::Text)]
    pub output: Output,
}

/// Forms of output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Text,
    /// For programs
    Json,
}

/// `selvedge reset`.
#[derive(Args, Debug)]
pub struct ResetArgs {
    /// The data directory
    #[arg(long, value_name = "DIR", env = "SELVEDGE_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Do it; without this flag it only says what would go
    #[arg(long)]
    pub yes: bool,
}

/// Arguments handed on as they are.
#[derive(Args, Debug)]
#[cfg(feature = "wasm")]
pub struct RawArgs {
    /// For the part that is started
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub args: Vec<std::ffi::OsString>,
}
