//! Our messages and services have the names, numbers, types and streaming kinds of etcd's.
//!
//! The other side is what the crate etcd-client carries: its `.proto` files are found through
//! cargo, compiled here, and flattened to one line for each message, field, enum value and
//! method, as are ours. What etcd-client is too old to have stands in [`NEWER`] by name.

use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Full name of a declaration -> everything about it that is visible on the wire or to a caller.
type Declarations = BTreeMap<String, String>;

/// The packages that both sides declare.
const PACKAGES: [&str; 5] = ["etcdserverpb", "mvccpb", "authpb", "v3lockpb", "v3electionpb"];

/// What etcd 3.7 has and the files of etcd-client lack. None at 0.21.1, which carries all of 3.7.
const NEWER: &[&str] = &[];

#[test]
fn every_message_and_method_equals_those_of_etcd_client() {
    let differences = differences(&ours(), &theirs(), NEWER);
    assert!(differences.is_empty(), "\n{}", differences.join("\n"));
}

#[test]
fn comparison_notices_each_kind_of_difference() {
    let theirs = theirs();
    let edits: [(&str, &str, &str); 8] = [
        ("etcdserverpb.Compare.range_end", "64 bytes", "9 bytes"),
        ("etcdserverpb.HashKVResponse.hash", "2 uint32", "2 uint64"),
        ("etcdserverpb.RangeResponse.kvs", "repeated", "single"),
        ("etcdserverpb.RequestOp.request_put", "oneof request", "oneof op"),
        ("etcdserverpb.RangeRequest.SortTarget.VALUE", "4", "5"),
        ("etcdserverpb.Maintenance.Snapshot", "stream", ""),
        ("v3electionpb.LeaderKey.lease", "int64", "sint64"),
        ("mvccpb.Event.prev_kv", "mvccpb.KeyValue", "mvccpb.Event"),
    ];
    for (name, from, to) in edits {
        let mut edited = ours();
        let line = edited.get_mut(name).unwrap_or_else(|| panic!("{name} is declared"));
        assert!(line.contains(from), "{name} is {line}");
        *line = line.replace(from, to);
        let found = differences(&edited, &theirs, NEWER);
        assert!(found.len() == 1 && found[0].contains(name), "{name}: {found:?}");
    }

    let mut missing = ours();
    missing.remove("authpb.Permission.range_end");
    assert_eq!(differences(&missing, &theirs, NEWER).len(), 1);

    let mut added = ours();
    added.insert("mvccpb.KeyValue.extra".into(), "9 int64 single".into());
    assert_eq!(differences(&added, &theirs, NEWER).len(), 1);

    let mut listed = NEWER.to_vec();
    listed.push("mvccpb.KeyValue.key");
    assert_eq!(differences(&ours(), &theirs, &listed).len(), 1);
}

fn differences(ours: &Declarations, theirs: &Declarations, newer: &[&str]) -> Vec<String> {
    let names: BTreeSet<&str> = ours.keys().chain(theirs.keys()).map(String::as_str).collect();
    let mut found = Vec::new();
    for name in names {
        match (ours.get(name), theirs.get(name)) {
            (Some(a), Some(b)) if a != b => found.push(format!("{name}: ours {a}, etcd's {b}")),
            (Some(a), None) if !newer.contains(&name) => {
                found.push(format!("{name}: ours {a}, etcd-client has none"));
            }
            (None, Some(b)) => found.push(format!("{name}: missing, etcd's {b}")),
            _ => {}
        }
    }
    for name in newer {
        if theirs.contains_key(*name) || !ours.contains_key(*name) {
            found.push(format!("{name}: listed as newer, but it is not"));
        }
    }
    found
}

fn ours() -> Declarations {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto");
    declarations(&root, &proto_files(&root.join("etcd")))
}

fn theirs() -> Declarations {
    let root = etcd_client_source().join("proto");
    declarations(&root, &proto_files(&root.join("etcd")))
}

/// The folder of the very version that `Cargo.lock` names.
fn etcd_client_source() -> PathBuf {
    // What only other systems need was never fetched.
    let version = Command::new("rustc").arg("-vV").output().expect("rustc runs");
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("a host");
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--offline", "--locked", "--format-version", "1"])
        .args(["--filter-platform", host])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("json");
    let manifest = metadata["packages"]
        .as_array()
        .expect("packages")
        .iter()
        .find(|package| package["name"] == "etcd-client")
        .and_then(|package| package["manifest_path"].as_str())
        .expect("etcd-client is a dependency");
    Path::new(manifest).parent().expect("a manifest lies in a folder").to_path_buf()
}

fn proto_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in folder.read_dir().unwrap_or_else(|e| panic!("{}: {e}", folder.display())) {
        let path = entry.expect("folder entry").path();
        if path.is_dir() {
            files.extend(proto_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "proto") {
            files.push(path);
        }
    }
    assert!(!files.is_empty(), "no .proto file in {}", folder.display());
    files
}

fn declarations(root: &Path, files: &[PathBuf]) -> Declarations {
    let set: FileDescriptorSet = protox::compile(files, [root]).expect("compiles");
    let mut all = Declarations::new();
    for file in &set.file {
        let package = file.package();
        if !PACKAGES.contains(&package) {
            continue;
        }
        for message in &file.message_type {
            add_message(&mut all, package, message);
        }
        for declared in &file.enum_type {
            add_enum(&mut all, package, declared);
        }
        for service in &file.service {
            for method in &service.method {
                let kind = |streams| if streams { "stream " } else { "" };
                let line = format!(
                    "{}{} -> {}{}",
                    kind(method.client_streaming()),
                    method.input_type(),
                    kind(method.server_streaming()),
                    method.output_type()
                );
                all.insert(format!("{package}.{}.{}", service.name(), method.name()), line);
            }
        }
    }
    all
}

fn add_message(all: &mut Declarations, scope: &str, message: &DescriptorProto) {
    let name = format!("{scope}.{}", message.name());
    all.insert(name.clone(), "message".into());
    for field in &message.field {
        all.insert(format!("{name}.{}", field.name()), field_line(message, field));
    }
    for nested in &message.nested_type {
        add_message(all, &name, nested);
    }
    for nested in &message.enum_type {
        add_enum(all, &name, nested);
    }
}

fn add_enum(all: &mut Declarations, scope: &str, declared: &EnumDescriptorProto) {
    let name = format!("{scope}.{}", declared.name());
    all.insert(name.clone(), "enum".into());
    for value in &declared.value {
        all.insert(format!("{name}.{}", value.name()), value.number().to_string());
    }
}

fn field_line(message: &DescriptorProto, field: &FieldDescriptorProto) -> String {
    let kind = match field.r#type() {
        Type::Message | Type::Enum => field.type_name().trim_start_matches('.').to_string(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    };
    let label = match field.label() {
        Label::Repeated => "repeated",
        Label::Optional | Label::Required => "single",
    };
    let oneof = match field.oneof_index {
        Some(index) => format!(" oneof {}", message.oneof_decl[index as usize].name()),
        None => String::new(),
    };
    let presence = if field.proto3_optional() { " optional" } else { "" };
    format!("{} {kind} {label}{oneof}{presence}", field.number())
}
