//! The functions that expressions may call: CEL's own and those of Kubernetes' libraries, as signatures.
//!
//! They are those of kube-apiserver 1.36 for new definitions (`k8s.io/apiserver/pkg/cel/environment`): of cel-go's extensions
//! strings in version 2, lists in version 3, sets, optionals and comprehensions of two variables; neither `math`, `encoders`,
//! `bindings` nor `cel.bind`.
//!
//! A line is `id receiver.name(types) result`; `A` and `B` stand for any type. The identifiers are those that costs are
//! looked up by; where none matters it is left to the name.

use std::{collections::HashMap, sync::LazyLock};

use super::types::Type;

/// One way to call a function.
#[derive(Clone, Debug)]
pub(crate) struct Overload {
    pub id: &'static str,
    pub is_member: bool,
    /// The receiver, if there is one, and the arguments.
    pub params: Vec<Type>,
    pub result: Type,
}

const SIGNATURES: &str = "
logical_and _&&_(bool,bool) bool
logical_or _||_(bool,bool) bool
logical_not !_(bool) bool
not_strictly_false @not_strictly_false(bool) bool
conditional _?_:_(bool,A,A) A
equals _==_(A,A) bool
not_equals _!=_(A,A) bool
in_list @in(A,list(A)) bool
in_map @in(A,map(A,B)) bool
index_list _[_](list(A),int) A
index_map _[_](map(A,B),A) B
optional_list_optindex_optional_value _[?_](list(A),int) optional(A)
optional_list_optindex_optional_value _[?_](optional(list(A)),int) optional(A)
optional_map_optindex_optional_value _[?_](map(A,B),A) optional(B)
optional_map_optindex_optional_value _[?_](optional(map(A,B)),A) optional(B)
optional_list_index_int _[_](optional(list(A)),int) optional(A)
optional_map_index_value _[_](optional(map(A,B)),A) optional(B)
less_bool _<_(bool,bool) bool
less_int64 _<_(int,int) bool
less_int64_double _<_(int,double) bool
less_int64_uint64 _<_(int,uint) bool
less_uint64 _<_(uint,uint) bool
less_uint64_double _<_(uint,double) bool
less_uint64_int64 _<_(uint,int) bool
less_double _<_(double,double) bool
less_double_int64 _<_(double,int) bool
less_double_uint64 _<_(double,uint) bool
less_string _<_(string,string) bool
less_bytes _<_(bytes,bytes) bool
less_timestamp _<_(timestamp,timestamp) bool
less_duration _<_(duration,duration) bool
add_int64 _+_(int,int) int
add_uint64 _+_(uint,uint) uint
add_double _+_(double,double) double
add_string _+_(string,string) string
add_bytes _+_(bytes,bytes) bytes
add_list _+_(list(A),list(A)) list(A)
add_timestamp_duration _+_(timestamp,duration) timestamp
add_duration_timestamp _+_(duration,timestamp) timestamp
add_duration_duration _+_(duration,duration) duration
subtract_int64 _-_(int,int) int
subtract_uint64 _-_(uint,uint) uint
subtract_double _-_(double,double) double
subtract_timestamp_timestamp _-_(timestamp,timestamp) duration
subtract_timestamp_duration _-_(timestamp,duration) timestamp
subtract_duration_duration _-_(duration,duration) duration
multiply_int64 _*_(int,int) int
multiply_uint64 _*_(uint,uint) uint
multiply_double _*_(double,double) double
divide_int64 _/_(int,int) int
divide_uint64 _/_(uint,uint) uint
divide_double _/_(double,double) double
modulo_int64 _%_(int,int) int
modulo_uint64 _%_(uint,uint) uint
negate_int64 -_(int) int
negate_double -_(double) double
map_insert cel.@mapInsert(map(A,B),A,B) map(A,B)
map_insert_map cel.@mapInsert(map(A,B),map(A,B)) map(A,B)
to_dyn dyn(A) dyn
type type(A) type
size_string size(string) int
size_bytes size(bytes) int
size_list size(list(A)) int
size_map size(map(A,B)) int
string_size string.size() int
bytes_size bytes.size() int
list_size list(A).size() int
map_size map(A,B).size() int
contains_string string.contains(string) bool
starts_with_string string.startsWith(string) bool
ends_with_string string.endsWith(string) bool
matches matches(string,string) bool
matches_string string.matches(string) bool
int64_to_int64 int(int) int
uint64_to_int64 int(uint) int
double_to_int64 int(double) int
string_to_int64 int(string) int
timestamp_to_int64 int(timestamp) int
duration_to_int64 int(duration) int
uint64_to_uint64 uint(uint) uint
int64_to_uint64 uint(int) uint
double_to_uint64 uint(double) uint
string_to_uint64 uint(string) uint
double_to_double double(double) double
int64_to_double double(int) double
uint64_to_double double(uint) double
string_to_double double(string) double
string_to_string string(string) string
bool_to_string string(bool) string
bytes_to_string string(bytes) string
double_to_string string(double) string
duration_to_string string(duration) string
int64_to_string string(int) string
timestamp_to_string string(timestamp) string
uint64_to_string string(uint) string
bool_to_bool bool(bool) bool
string_to_bool bool(string) bool
bytes_to_bytes bytes(bytes) bytes
string_to_bytes bytes(string) bytes
string_to_duration duration(string) duration
duration_to_duration duration(duration) duration
int64_to_duration duration(int) duration
string_to_timestamp timestamp(string) timestamp
timestamp_to_timestamp timestamp(timestamp) timestamp
int64_to_timestamp timestamp(int) timestamp
t timestamp.getFullYear() int
t timestamp.getFullYear(string) int
t timestamp.getMonth() int
t timestamp.getMonth(string) int
t timestamp.getDayOfYear() int
t timestamp.getDayOfYear(string) int
t timestamp.getDayOfMonth() int
t timestamp.getDayOfMonth(string) int
t timestamp.getDate() int
t timestamp.getDate(string) int
t timestamp.getDayOfWeek() int
t timestamp.getDayOfWeek(string) int
t timestamp.getHours() int
t timestamp.getHours(string) int
t duration.getHours() int
t timestamp.getMinutes() int
t timestamp.getMinutes(string) int
t duration.getMinutes() int
t timestamp.getSeconds() int
t timestamp.getSeconds(string) int
t duration.getSeconds() int
t timestamp.getMilliseconds() int
t timestamp.getMilliseconds(string) int
t duration.getMilliseconds() int
optional_of optional.of(A) optional(A)
optional_ofNonZeroValue optional.ofNonZeroValue(A) optional(A)
optional_none optional.none() optional(A)
optional_unwrap optional.unwrap(list(optional(A))) list(A)
optional_unwrapOpt list(optional(A)).unwrapOpt() list(A)
optional_hasValue optional(A).hasValue() bool
optional_value optional(A).value() A
optional_or_optional optional(A).or(optional(A)) optional(A)
optional_orValue_value optional(A).orValue(A) A
string_char_at_int string.charAt(int) string
string_index_of_string string.indexOf(string) int
string_index_of_string_int string.indexOf(string,int) int
string_last_index_of_string string.lastIndexOf(string) int
string_last_index_of_string_int string.lastIndexOf(string,int) int
string_lower_ascii string.lowerAscii() string
string_upper_ascii string.upperAscii() string
string_replace_string_string string.replace(string,string) string
string_replace_string_string_int string.replace(string,string,int) string
string_split_string string.split(string) list(string)
string_split_string_int string.split(string,int) list(string)
string_substring_int string.substring(int) string
string_substring_int_int string.substring(int,int) string
string_trim string.trim() string
string_format string.format(list(dyn)) string
strings_quote strings.quote(string) string
list_join list(string).join() string
list_join_string list(string).join(string) string
list_slice list(A).slice(int,int) list(A)
list_flatten list(list(A)).flatten() list(A)
list_flatten_int list(dyn).flatten(int) list(dyn)
list_bool_sort list(bool).sort() list(bool)
list_bytes_sort list(bytes).sort() list(bytes)
list_double_sort list(double).sort() list(double)
list_duration_sort list(duration).sort() list(duration)
list_int_sort list(int).sort() list(int)
list_string_sort list(string).sort() list(string)
list_timestamp_sort list(timestamp).sort() list(timestamp)
list_uint_sort list(uint).sort() list(uint)
list_bool_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(bool)) list(A)
list_bytes_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(bytes)) list(A)
list_double_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(double)) list(A)
list_duration_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(duration)) list(A)
list_int_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(int)) list(A)
list_string_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(string)) list(A)
list_timestamp_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(timestamp)) list(A)
list_uint_sortByAssociatedKeys list(A).@sortByAssociatedKeys(list(uint)) list(A)
lists_range lists.range(int) list(int)
list_reverse list(A).reverse() list(A)
list_distinct list(A).distinct() list(A)
list_first list(A).first() optional(A)
list_last list(A).last() optional(A)
list_index_of list(A).indexOf(A) int
list_last_index_of list(A).lastIndexOf(A) int
list_is_sorted list(int).isSorted() bool
list_is_sorted list(uint).isSorted() bool
list_is_sorted list(double).isSorted() bool
list_is_sorted list(bool).isSorted() bool
list_is_sorted list(duration).isSorted() bool
list_is_sorted list(timestamp).isSorted() bool
list_is_sorted list(string).isSorted() bool
list_is_sorted list(bytes).isSorted() bool
list_sum list(int).sum() int
list_sum list(uint).sum() uint
list_sum list(double).sum() double
list_sum list(duration).sum() duration
list_min list(int).min() int
list_min list(uint).min() uint
list_min list(double).min() double
list_min list(bool).min() bool
list_min list(duration).min() duration
list_min list(timestamp).min() timestamp
list_min list(string).min() string
list_min list(bytes).min() bytes
list_max list(int).max() int
list_max list(uint).max() uint
list_max list(double).max() double
list_max list(bool).max() bool
list_max list(duration).max() duration
list_max list(timestamp).max() timestamp
list_max list(string).max() string
list_max list(bytes).max() bytes
string_find_string string.find(string) string
string_find_all_string string.findAll(string) list(string)
string_find_all_string_int string.findAll(string,int) list(string)
list_sets_contains_list sets.contains(list(A),list(A)) bool
list_sets_equivalent_list sets.equivalent(list(A),list(A)) bool
list_sets_intersects_list sets.intersects(list(A),list(A)) bool
string_to_url url(string) url
is_url_string isURL(string) bool
url_get_scheme url.getScheme() string
url_get_host url.getHost() string
url_get_hostname url.getHostname() string
url_get_port url.getPort() string
url_get_escaped_path url.getEscapedPath() string
url_get_query url.getQuery() map(string,list(string))
string_to_ip ip(string) ip
is_ip isIP(string) bool
ip_is_canonical ip.isCanonical(string) bool
ip_to_string string(ip) string
family ip.family() int
is_unspecified ip.isUnspecified() bool
is_loopback ip.isLoopback() bool
is_link_local_multicast ip.isLinkLocalMulticast() bool
is_link_local_unicast ip.isLinkLocalUnicast() bool
is_global_unicast ip.isGlobalUnicast() bool
string_to_cidr cidr(string) cidr
is_cidr isCIDR(string) bool
cidr_contains_ip_string cidr.containsIP(string) bool
cidr_contains_ip_ip cidr.containsIP(ip) bool
cidr_contains_cidr_string cidr.containsCIDR(string) bool
cidr_contains_cidr cidr.containsCIDR(cidr) bool
cidr_ip cidr.ip() ip
cidr_prefix_length cidr.prefixLength() int
cidr_masked cidr.masked() cidr
cidr_to_string string(cidr) string
string_to_quantity quantity(string) quantity
is_quantity_string isQuantity(string) bool
quantity_sign quantity.sign() int
quantity_is_greater_than quantity.isGreaterThan(quantity) bool
quantity_is_less_than quantity.isLessThan(quantity) bool
quantity_compare_to quantity.compareTo(quantity) int
quantity_get_float quantity.asApproximateFloat() double
quantity_get_int quantity.asInteger() int
quantity_is_integer quantity.isInteger() bool
quantity_add quantity.add(quantity) quantity
quantity_add_int quantity.add(int) quantity
quantity_sub quantity.sub(quantity) quantity
quantity_sub_int quantity.sub(int) quantity
string_to_semver semver(string) semver
string_bool_to_semver semver(string,bool) semver
is_semver_string isSemver(string) bool
is_semver_string_bool isSemver(string,bool) bool
semver_is_greater_than semver.isGreaterThan(semver) bool
semver_is_less_than semver.isLessThan(semver) bool
semver_compare_to semver.compareTo(semver) int
semver_major semver.major() int
semver_minor semver.minor() int
semver_patch semver.patch() int
format_named format.named(string) optional(format)
format-validate format.validate(string) optional(list(string))
";

/// Formats that `format.NAME()` gives.
pub(super) const FORMATS: [&str; 13] = [
    "dns1123Label",
    "dns1123Subdomain",
    "dns1035Label",
    "qualifiedName",
    "dns1123LabelPrefix",
    "dns1123SubdomainPrefix",
    "dns1035LabelPrefix",
    "labelValue",
    "uri",
    "uuid",
    "byte",
    "date",
    "datetime",
];

/// Names whose dot is a part of them, and not a receiver.
const SPACES: [&str; 7] = ["cel", "optional", "strings", "lists", "sets", "ip.isCanonical", "format.named"];

pub(super) static FUNCTIONS: LazyLock<HashMap<&'static str, Vec<Overload>>> = LazyLock::new(|| {
    let mut functions: HashMap<&'static str, Vec<Overload>> = HashMap::new();
    for line in SIGNATURES.lines().filter(|line| !line.is_empty()) {
        let (name, overload) = read(line);
        // Comparisons are alike but for their direction.
        for other in ["_<=_", "_>_", "_>=_"] {
            if name == "_<_" {
                functions.entry(other).or_default().push(overload.clone());
            }
        }
        functions.entry(name).or_default().push(overload);
    }
    for format in FORMATS {
        let name: &'static str = Box::leak(format!("format.{format}").into_boxed_str());
        let result = Type::Named("kubernetes.NamedFormat");
        functions.insert(name, vec![Overload { id: "format_constant", is_member: false, params: Vec::new(), result }]);
    }
    functions
});

fn read(line: &'static str) -> (&'static str, Overload) {
    let (id, rest) = line.split_once(' ').expect("a signature has an id");
    let (call, result) = rest.rsplit_once(' ').expect("a signature has a result");
    // The arguments begin at the parenthesis that the last one closes.
    let bytes = call.as_bytes();
    let mut depth = 0;
    let mut open = call.len();
    for at in (0..call.len()).rev() {
        match bytes[at] {
            b')' => depth += 1,
            b'(' => {
                depth -= 1;
                if depth == 0 {
                    open = at;
                    break;
                }
            }
            _ => {}
        }
    }
    let (head, args) = (&call[..open], &call[open + 1..call.len() - 1]);
    let is_space =
        SPACES.iter().any(|space| head == *space || head.strip_prefix(space).is_some_and(|rest| rest.starts_with('.')));
    let receiver = if is_space { None } else { head.rsplit_once('.') };
    let mut params = Vec::new();
    let name = match receiver {
        Some((receiver, name)) => {
            params.push(read_type(receiver));
            name
        }
        None => head,
    };
    params.extend(split(args).into_iter().map(read_type));
    (name, Overload { id, is_member: receiver.is_some(), params, result: read_type(result) })
}

fn split(args: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut depth, mut start) = (0, 0);
    for (at, char) in args.char_indices() {
        match char {
            '(' => depth += 1,
            ')' => depth -= 1,
            ',' if depth == 0 => {
                parts.push(&args[start..at]);
                start = at + 1;
            }
            _ => {}
        }
    }
    if !args.is_empty() {
        parts.push(&args[start..]);
    }
    parts
}

fn read_type(text: &str) -> Type {
    if let Some((outer, inner)) = text.split_once('(') {
        let inner = split(&inner[..inner.len() - 1]);
        let first = || Box::new(read_type(inner[0]));
        return match outer {
            "list" => Type::List(first()),
            "optional" => Type::Optional(first()),
            _ => Type::Map(first(), Box::new(read_type(inner[1]))),
        };
    }
    match text {
        "bool" => Type::Bool,
        "int" => Type::Int,
        "uint" => Type::Uint,
        "double" => Type::Double,
        "string" => Type::Text,
        "bytes" => Type::Bytes,
        "duration" => Type::Duration,
        "timestamp" => Type::Timestamp,
        "type" => Type::Type,
        "A" => Type::Param(0),
        "B" => Type::Param(1),
        "url" => Type::Named("kubernetes.URL"),
        "ip" => Type::Named("net.IP"),
        "cidr" => Type::Named("net.CIDR"),
        "quantity" => Type::Named("kubernetes.Quantity"),
        "semver" => Type::Named("kubernetes.Semver"),
        "format" => Type::Named("kubernetes.NamedFormat"),
        _ => Type::Dyn,
    }
}
