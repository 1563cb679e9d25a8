// The one program of the test images: an HTTP echo for Pods (`web`), the pause container (`web pause`).
// It answers with what it saw as JSON, in the shape of the conformance suite's echo server.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

type answer struct {
	TestID    string              `json:"testId"`
	Path      string              `json:"path"`
	Host      string              `json:"host"`
	Method    string              `json:"method"`
	Proto     string              `json:"proto"`
	Headers   map[string][]string `json:"headers"`
	Namespace string              `json:"namespace"`
	Ingress   string              `json:"ingress"`
	Service   string              `json:"service"`
	Pod       string              `json:"pod"`
	Node      string              `json:"node"`
	Version   string              `json:"version"`
	Peer      string              `json:"peer"`
}

func echo(writer http.ResponseWriter, request *http.Request) {
	if text := request.URL.Query().Get("delay"); text != "" {
		if wait, err := time.ParseDuration(text); err == nil {
			time.Sleep(wait)
		}
	}
	pod := os.Getenv("POD_NAME")
	if pod == "" {
		pod, _ = os.Hostname()
	}
	writer.Header().Set("Content-Type", "application/json")
	if status, err := strconv.Atoi(request.URL.Query().Get("status")); err == nil {
		writer.WriteHeader(status)
	}
	_ = json.NewEncoder(writer).Encode(answer{
		TestID:    request.Header.Get("X-Echo-Set-Test-Id"),
		Path:      request.RequestURI,
		Host:      request.Host,
		Method:    request.Method,
		Proto:     request.Proto,
		Headers:   request.Header,
		Namespace: os.Getenv("NAMESPACE"),
		Ingress:   os.Getenv("INGRESS_NAME"),
		Service:   os.Getenv("SERVICE_NAME"),
		Pod:       pod,
		Node:      os.Getenv("NODE_NAME"),
		Version:   os.Getenv("VERSION"),
		Peer:      request.RemoteAddr,
	})
}

// What tests/e2e/survival/client.c asks and checks; PLAIN=1 has it in place of echo.
func plain(writer http.ResponseWriter, request *http.Request) {
	body := []byte(strings.Repeat("x", 128))
	if request.Header.Get("Upgrade") != "" {
		tunnel(writer, request)
		return
	} else if size, err := strconv.Atoi(request.URL.Query().Get("n")); err == nil {
		body = []byte(strings.Repeat("0123456789abcdef", size/16))
	} else if request.Method == http.MethodPost {
		body, _ = io.ReadAll(request.Body)
	}
	writer.Header().Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = writer.Write(body)
}

func tunnel(writer http.ResponseWriter, request *http.Request) {
	connection, buffer, err := writer.(http.Hijacker).Hijack()
	if err != nil {
		return
	}
	defer connection.Close()
	_ = connection.SetDeadline(time.Time{})
	fmt.Fprintf(connection, "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: %s\r\n\r\n",
		request.Header.Get("Upgrade"))
	_, _ = io.Copy(connection, buffer)
}

func pause() {
	signals := make(chan os.Signal, 4)
	signal.Notify(signals, syscall.SIGTERM, syscall.SIGINT, syscall.SIGCHLD)
	for got := range signals {
		if got != syscall.SIGCHLD {
			return
		}
		for {
			if pid, err := syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid <= 0 || err != nil {
				break
			}
		}
	}
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == "pause" {
		pause()
		return
	}
	address := os.Getenv("ADDR")
	if address == "" {
		address = ":8080"
	}
	// LINGER: how long to go on answering after SIGTERM, as a Pod should that stands behind an ingress.
	linger, err := time.ParseDuration(os.Getenv("LINGER"))
	if err != nil {
		linger = 2 * time.Second
	}
	routes := http.NewServeMux()
	routes.HandleFunc("/healthz", func(writer http.ResponseWriter, _ *http.Request) { fmt.Fprintln(writer, "ok") })
	answering := echo
	if os.Getenv("PLAIN") != "" {
		answering = plain
	}
	routes.HandleFunc("/", answering)
	server := &http.Server{Addr: address, Handler: routes}
	ended := make(chan struct{})
	go func() {
		signals := make(chan os.Signal, 1)
		signal.Notify(signals, syscall.SIGTERM)
		<-signals
		time.Sleep(linger)
		limit, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		_ = server.Shutdown(limit)
		close(ended)
	}()
	fmt.Println("listening", address)
	if err := server.ListenAndServe(); err != http.ErrServerClosed {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	<-ended
}
