// Prints what the Go types of the Kubernetes API look like on the wire: JSON names, what is left out when it is empty,
// protobuf tags, patch strategies. The published OpenAPI documents do not say this.
//
//	go run . | gzip -9n > ../types-1.36.json.gz
package main

import (
	"encoding/json"
	"os"
	"reflect"
	"sort"
	"strconv"
	"strings"

	extensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes/scheme"
	aggregator "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

type field struct {
	Name     string `json:"name"`
	Go       string `json:"go"`
	Shape    any    `json:"shape"`
	Type     string `json:"type,omitempty"` // Go's name of the type, as in errors
	Pointer  bool   `json:"pointer,omitempty"`
	Omit     string `json:"omit,omitempty"` // empty, zero
	Tag      int    `json:"tag,omitempty"`
	Wire     string `json:"wire,omitempty"`
	Via      int    `json:"via,omitempty"` // tags of the embedded messages, 32 to the place
	Strategy string `json:"strategy,omitempty"`
	Key      string `json:"key,omitempty"`
}

type definition struct {
	Go     string  `json:"go"`
	Fields []field `json:"fields"`
}

type kind struct {
	Group   string `json:"group"`
	Version string `json:"version"`
	Kind    string `json:"kind"`
	Type    string `json:"type"`
}

var special = map[string]string{
	"k8s.io/apimachinery/pkg/apis/meta/v1.Time":                                  "time",
	"k8s.io/apimachinery/pkg/apis/meta/v1.MicroTime":                             "microtime",
	"k8s.io/apimachinery/pkg/apis/meta/v1.Duration":                              "duration",
	"k8s.io/apimachinery/pkg/api/resource.Quantity":                              "quantity",
	"k8s.io/apimachinery/pkg/util/intstr.IntOrString":                            "intorstring",
	"k8s.io/apimachinery/pkg/runtime.RawExtension":                               "rawextension",
	"k8s.io/apimachinery/pkg/apis/meta/v1.FieldsV1":                              "fieldsv1",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSON":              "json",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrArray": "schemaorarray",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrBool":  "schemaorbool",
	"k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1.JSONSchemaPropsOrStringArray": "schemaorstrings",
}

var definitions = map[string]*definition{}

type named interface{ OpenAPIModelName() string }

func name(t reflect.Type) string {
	if n, ok := reflect.Zero(t).Interface().(named); ok {
		return n.OpenAPIModelName()
	}
	return strings.ReplaceAll(t.PkgPath(), "/", ".") + "." + t.Name()
}

func shape(t reflect.Type) any {
	if s, ok := special[t.PkgPath()+"."+t.Name()]; ok {
		return s
	}
	switch t.Kind() {
	case reflect.Bool:
		return "bool"
	case reflect.Int, reflect.Int64:
		return "int64"
	case reflect.Int32:
		return "int32"
	case reflect.Uint8:
		return "uint8"
	case reflect.Uint16:
		return "uint16"
	case reflect.Uint32:
		return "uint32"
	case reflect.Uint64:
		return "uint64"
	case reflect.Float64, reflect.Float32:
		return "float64"
	case reflect.String:
		return "string"
	case reflect.Pointer:
		return map[string]any{"pointer": shape(t.Elem())}
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 && t.Elem().Name() == "uint8" {
			return "bytes"
		}
		return map[string]any{"list": shape(t.Elem()), "type": t.Elem().String()}
	case reflect.Map:
		return map[string]any{"map": shape(t.Elem()), "type": t.Elem().String(), "key": t.Key().Kind().String()}
	case reflect.Interface:
		return "any"
	case reflect.Struct:
		define(t)
		return map[string]any{"ref": name(t)}
	}
	panic(t.String())
}

func fields(t reflect.Type, via int) (out []field) {
	for i := 0; i < t.NumField(); i++ {
		f := t.Field(i)
		if !f.IsExported() {
			continue
		}
		tag := f.Tag.Get("json")
		parts := strings.Split(tag, ",")
		proto := strings.Split(f.Tag.Get("protobuf"), ",")
		number, wire := 0, ""
		if len(proto) > 1 {
			wire = proto[0]
			number, _ = strconv.Atoi(proto[1])
		}
		inline := f.Anonymous && parts[0] == ""
		for _, p := range parts[1:] {
			inline = inline || p == "inline"
		}
		ft := f.Type
		if inline {
			if ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			embedded := fields(ft, via*32+number)
			if number == 0 {
				// TypeMeta is not sent: the envelope says it.
				for i := range embedded {
					embedded[i].Tag = 0
				}
			}
			out = append(out, embedded...)
			continue
		}
		if parts[0] == "-" || tag == "" {
			continue
		}
		e := field{Name: parts[0], Go: f.Name, Tag: number, Wire: wire, Via: via,
			Strategy: f.Tag.Get("patchStrategy"), Key: f.Tag.Get("patchMergeKey")}
		for _, p := range parts[1:] {
			if p == "omitempty" && e.Omit == "" {
				e.Omit = "empty"
			}
			if p == "omitzero" {
				e.Omit = "zero"
			}
		}
		if ft.Kind() == reflect.Pointer {
			e.Pointer = true
			ft = ft.Elem()
		}
		e.Type = ft.String()
		e.Shape = shape(ft)
		out = append(out, e)
	}
	return
}

func define(t reflect.Type) {
	n := name(t)
	if definitions[n] != nil {
		return
	}
	d := &definition{Go: t.Name(), Fields: []field{}}
	definitions[n] = d
	d.Fields = append(d.Fields, fields(t, 0)...)
}

func main() {
	s := runtime.NewScheme()
	must(scheme.AddToScheme(s))
	must(extensions.AddToScheme(s))
	must(aggregator.AddToScheme(s))
	var kinds []kind
	for gvk, t := range s.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || t.PkgPath() == "k8s.io/apimachinery/pkg/apis/meta/v1" && gvk.Group != "" {
			continue
		}
		define(t)
		kinds = append(kinds, kind{gvk.Group, gvk.Version, gvk.Kind, name(t)})
	}
	for _, v := range []any{meta.Status{}, meta.DeleteOptions{}, meta.CreateOptions{}, meta.UpdateOptions{}, meta.PatchOptions{}, meta.ListOptions{},
		meta.WatchEvent{}, meta.PartialObjectMetadata{}, meta.PartialObjectMetadataList{}, meta.Table{}, meta.APIGroup{}, meta.APIGroupList{}, meta.APIResourceList{}, meta.APIVersions{}, meta.ObjectMeta{}, runtime.Unknown{}} {
		define(reflect.TypeOf(v))
	}
	_ = schema.GroupVersionKind{}
	sort.Slice(kinds, func(i, j int) bool {
		a, b := kinds[i], kinds[j]
		return a.Group+"/"+a.Version+"/"+a.Kind < b.Group+"/"+b.Version+"/"+b.Kind
	})
	e := json.NewEncoder(os.Stdout)
	must(e.Encode(map[string]any{"kinds": kinds, "types": definitions}))
}

func must(err error) {
	if err != nil {
		panic(err)
	}
}
