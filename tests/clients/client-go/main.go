// Command client-go uses an API server as controllers written in Go do: typed clients in JSON and in protobuf, dynamic and
// metadata clients, informers that begin with a WatchList, server-side apply, leader election.
//
// Usage: client-go KUBECONFIG SUITE. It prints one line for each thing that it has seen to work and ends with 1 at the first
// that does not. What it needs it creates in a namespace of its own and deletes afterwards.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// What a suite gets.
type suite struct {
	ctx       context.Context
	config    *rest.Config
	client    kubernetes.Interface
	namespace string
}

var suites = map[string]func(*suite){
	"json":     typed,
	"protobuf": typed,
	"dynamic":  dynamicClients,
	"informer": informerSuite,
	"apply":    apply,
	"leader":   leaderElection,
}

func main() {
	if len(os.Args) != 3 || suites[os.Args[2]] == nil {
		fmt.Fprintln(os.Stderr, "usage: client-go KUBECONFIG json|protobuf|dynamic|informer|apply|leader")
		os.Exit(2)
	}
	name := os.Args[2]
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	must(err, "the kubeconfig is read")
	config.QPS, config.Burst = 1000, 1000
	config.UserAgent = "selvedge-client-go"
	if name == "protobuf" {
		config.ContentType = "application/vnd.kubernetes.protobuf"
		config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	}
	client, err := kubernetes.NewForConfig(config)
	must(err, "a client is made")
	ctx, cancel := context.WithTimeout(context.Background(), 90*time.Second)
	defer cancel()
	namespace, err := client.CoreV1().Namespaces().Create(ctx,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "client-go-" + name + "-"}}, metav1.CreateOptions{})
	must(err, "a namespace is created")
	suites[name](&suite{ctx: ctx, config: config, client: client, namespace: namespace.Name})
	must(client.CoreV1().Namespaces().Delete(ctx, namespace.Name, metav1.DeleteOptions{}), "the namespace is deleted")
	fmt.Println("all of", name)
}

// Ends the program unless there is no error.
func must(err error, what string) {
	check(err == nil, what, err)
}

// Ends the program unless what was seen is what it should be.
func check(is bool, what string, seen ...any) {
	if !is {
		fmt.Printf("NOT: %s: %v\n", what, seen)
		os.Exit(1)
	}
	fmt.Println("ok:", what)
}
