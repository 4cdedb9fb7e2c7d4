package main

import (
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"

	"context"
)

const informed = 300

// Counts requests that ask for a list by watching.
type counting struct {
	inner      http.RoundTripper
	watchLists *atomic.Int32
}

func (c counting) RoundTrip(request *http.Request) (*http.Response, error) {
	if request.URL.Query().Get("sendInitialEvents") == "true" {
		c.watchLists.Add(1)
	}
	return c.inner.RoundTrip(request)
}

// Informers: what every controller is built on.
func informerSuite(s *suite) {
	maps := s.client.CoreV1().ConfigMaps(s.namespace)
	for number := range informed {
		object := &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("m-%03d", number), Labels: map[string]string{"informed": "yes"}}}
		if _, err := maps.Create(s.ctx, object, metav1.CreateOptions{}); err != nil {
			must(err, "a config map is created")
		}
	}
	var watchLists atomic.Int32
	config := rest.CopyConfig(s.config)
	config.Wrap(func(inner http.RoundTripper) http.RoundTripper { return counting{inner, &watchLists} })
	client, err := kubernetes.NewForConfig(config)
	must(err, "a client is made")
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(s.namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "informed" }))
	informer := factory.Core().V1().ConfigMaps().Informer()
	var lock sync.Mutex
	seen := map[string]int{}
	note := func(what string, object any) {
		if unknown, is := object.(cache.DeletedFinalStateUnknown); is {
			object = unknown.Obj
		}
		lock.Lock()
		defer lock.Unlock()
		seen[what+" "+object.(*corev1.ConfigMap).Name]++
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(object any) { note("add", object) },
		UpdateFunc: func(_, object any) { note("update", object) },
		DeleteFunc: func(object any) { note("delete", object) },
	})
	must(err, "a handler is added")
	ctx, stop := context.WithCancel(s.ctx)
	factory.Start(ctx.Done())
	check(cache.WaitForCacheSync(ctx.Done(), registration.HasSynced), "the informer has synced")
	check(watchLists.Load() > 0, "by a watch that begins with what is there", watchLists.Load())
	listed, err := factory.Core().V1().ConfigMaps().Lister().List(labels.Everything())
	must(err, "the cache is listed")
	check(len(listed) == informed, "it holds every object", len(listed))

	fresh, err := maps.Get(s.ctx, "m-000", metav1.GetOptions{})
	must(err, "an object is read")
	fresh.Data = map[string]string{"a": "b"}
	_, err = maps.Update(s.ctx, fresh, metav1.UpdateOptions{})
	must(err, "and updated")
	must(maps.Delete(s.ctx, "m-001", metav1.DeleteOptions{}), "another is deleted")
	_, err = maps.Create(s.ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "new", Labels: map[string]string{"informed": "yes"}}}, metav1.CreateOptions{})
	must(err, "one is added")
	expected := []string{"update m-000", "delete m-001", "add new"}
	err = wait.PollUntilContextTimeout(s.ctx, 20*time.Millisecond, 20*time.Second, true, func(context.Context) (bool, error) {
		lock.Lock()
		defer lock.Unlock()
		for _, one := range expected {
			if seen[one] == 0 {
				return false, nil
			}
		}
		return true, nil
	})
	must(err, "the handler sees all three")
	lock.Lock()
	total := 0
	for what, count := range seen {
		if count != 1 {
			check(false, "each event comes once", what, count)
		}
		total += count
	}
	lock.Unlock()
	check(total == informed+len(expected), "and nothing else comes", total)
	stop()
	factory.Shutdown()
}

// A lease that one of two holds, and that the other takes when it is released.
func leaderElection(s *suite) {
	elect := func(ctx context.Context, identity string, leads chan<- string) {
		leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
			Lock: &resourcelock.LeaseLock{
				LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: s.namespace},
				Client:     s.client.CoordinationV1(),
				LockConfig: resourcelock.ResourceLockConfig{Identity: identity},
			},
			ReleaseOnCancel: true,
			LeaseDuration:   4 * time.Second,
			RenewDeadline:   3 * time.Second,
			RetryPeriod:     200 * time.Millisecond,
			Callbacks: leaderelection.LeaderCallbacks{
				OnStartedLeading: func(context.Context) { leads <- identity },
				OnStoppedLeading: func() {},
			},
		})
	}
	leads := make(chan string, 2)
	first, stopFirst := context.WithCancel(s.ctx)
	done := make(chan struct{})
	go func() { elect(first, "first", leads); close(done) }()
	check(<-leads == "first", "the first leads")
	second, stopSecond := context.WithCancel(s.ctx)
	ended := make(chan struct{})
	go func() { elect(second, "second", leads); close(ended) }()
	select {
	case who := <-leads:
		check(false, "nobody leads beside it", who)
	case <-time.After(time.Second):
	}
	stopFirst()
	<-done
	check(<-leads == "second", "the second leads when the first has released its lease")
	stopSecond()
	<-ended
}
