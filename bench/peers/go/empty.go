package main

import (
	"context"
	"fmt"

	"google.golang.org/grpc"
)

// rawCodec passes messages as they are on the wire, so that an empty handler neither parses nor builds any.
type rawCodec struct{}

func (rawCodec) Name() string { return "proto" }

func (rawCodec) Marshal(message any) ([]byte, error) {
	raw, ok := message.(*[]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not raw", message)
	}
	return *raw, nil
}

func (rawCodec) Unmarshal(data []byte, message any) error {
	raw, ok := message.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not raw", message)
	}
	*raw = data
	return nil
}

// newEmpty returns a server that answers every CreateOrder and GetOrder with the same bytes.
func newEmpty(answer []byte) *grpc.Server {
	handle := func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
		var request []byte
		if err := decode(&request); err != nil {
			return nil, err
		}
		return &answer, nil
	}
	server := grpc.NewServer(grpc.ForceServerCodec(rawCodec{}))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "orders.v1.OrderService",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			{MethodName: "CreateOrder", Handler: handle},
			{MethodName: "GetOrder", Handler: handle},
		},
	}, struct{}{})
	return server
}
