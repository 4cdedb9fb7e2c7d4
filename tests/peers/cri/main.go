// A client of CRI, as a kubelet is one: what containerd takes for a pod, beside the node that is measured.
//
// Usage: cri SOCKET IMAGE COMMAND…; says what it measured in milliseconds, a line of JSON for each command:
//
//	pods COUNT      create and start so many pods of one container, run /bin/true in each, and delete each before the next
//	hold COUNT      create and start so many pods, and leave them
//	drop            delete every pod
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// client is one connection and what pods are made of.
type client struct {
	runtime cri.RuntimeServiceClient
	image   string
	number  int
}

// figures of one command.
type figures struct {
	Sandbox []float64 `json:"sandbox,omitempty"`
	Create  []float64 `json:"create,omitempty"`
	Start   []float64 `json:"start,omitempty"`
	Exec    []float64 `json:"exec,omitempty"`
	Stop    []float64 `json:"stop,omitempty"`
	Total   float64   `json:"total"`
}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "cri:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) < 3 {
		return fmt.Errorf("usage: cri SOCKET IMAGE COMMAND…")
	}
	connection, err := grpc.NewClient("unix://"+args[0], grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	c := &client{runtime: cri.NewRuntimeServiceClient(connection), image: args[1]}
	begin := time.Now()
	measured := figures{}
	switch command := args[2]; command {
	case "pods", "hold":
		count, err := strconv.Atoi(args[3])
		if err != nil {
			return err
		}
		for range count {
			if err := c.pod(ctx, &measured, command == "hold"); err != nil {
				return err
			}
		}
	case "drop":
		err = c.drop(ctx)
	default:
		return fmt.Errorf("`%s` is no command", command)
	}
	if err != nil {
		return err
	}
	measured.Total = since(begin)
	return json.NewEncoder(os.Stdout).Encode(measured)
}

func since(begin time.Time) float64 {
	return float64(time.Since(begin).Microseconds()) / 1000
}

// sandbox is pod number so-and-so with a network and a port of the host.
func (c *client) sandbox() *cri.PodSandboxConfig {
	c.number++
	name := fmt.Sprintf("p%d", c.number)
	return &cri.PodSandboxConfig{
		Metadata:     &cri.PodSandboxMetadata{Name: name, Uid: fmt.Sprintf("%s-%d", name, os.Getpid()), Namespace: "default"},
		Hostname:     name,
		LogDirectory: os.Getenv("CRI_LOGS") + "/" + name,
		PortMappings: []*cri.PortMapping{{Protocol: cri.Protocol_TCP, ContainerPort: 80, HostPort: int32(30000 + c.number)}},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: os.Getenv("CRI_CGROUP"),
			SecurityContext: &cri.LinuxSandboxSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
			},
		},
	}
}

func (c *client) container() *cri.ContainerConfig {
	return &cri.ContainerConfig{
		Metadata: &cri.ContainerMetadata{Name: "main"},
		Image:    &cri.ImageSpec{Image: c.image},
		Command:  []string{"/bin/sleep", "1000000"},
		LogPath:  "main.log",
		Linux: &cri.LinuxContainerConfig{
			SecurityContext: &cri.LinuxContainerSecurityContext{
				NamespaceOptions: &cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER},
				Seccomp:          &cri.SecurityProfile{ProfileType: cri.SecurityProfile_RuntimeDefault},
			},
		},
	}
}

// pod creates and starts one, and unless it stays runs a command in it and deletes it.
func (c *client) pod(ctx context.Context, measured *figures, stays bool) error {
	config := c.sandbox()
	if err := os.MkdirAll(config.LogDirectory, 0o755); err != nil {
		return err
	}
	begin := time.Now()
	sandbox, err := c.runtime.RunPodSandbox(ctx, &cri.RunPodSandboxRequest{Config: config})
	if err != nil {
		return err
	}
	measured.Sandbox = append(measured.Sandbox, since(begin))
	begin = time.Now()
	container, err := c.runtime.CreateContainer(ctx, &cri.CreateContainerRequest{
		PodSandboxId: sandbox.PodSandboxId, Config: c.container(), SandboxConfig: config,
	})
	if err != nil {
		return err
	}
	measured.Create = append(measured.Create, since(begin))
	begin = time.Now()
	if _, err := c.runtime.StartContainer(ctx, &cri.StartContainerRequest{ContainerId: container.ContainerId}); err != nil {
		return err
	}
	measured.Start = append(measured.Start, since(begin))
	if stays {
		return nil
	}
	begin = time.Now()
	result, err := c.runtime.ExecSync(ctx, &cri.ExecSyncRequest{
		ContainerId: container.ContainerId, Cmd: []string{"/bin/true"}, Timeout: 10,
	})
	if err != nil {
		return err
	}
	if result.ExitCode != 0 {
		return fmt.Errorf("/bin/true ended with %d: %s", result.ExitCode, result.Stderr)
	}
	measured.Exec = append(measured.Exec, since(begin))
	begin = time.Now()
	if err := c.remove(ctx, sandbox.PodSandboxId); err != nil {
		return err
	}
	measured.Stop = append(measured.Stop, since(begin))
	return nil
}

func (c *client) remove(ctx context.Context, id string) error {
	if _, err := c.runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return err
	}
	_, err := c.runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: id})
	return err
}

func (c *client) drop(ctx context.Context) error {
	list, err := c.runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{})
	if err != nil {
		return err
	}
	for _, sandbox := range list.Items {
		if err := c.remove(ctx, sandbox.Id); err != nil {
			return err
		}
	}
	return nil
}
