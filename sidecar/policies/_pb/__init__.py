"""Messages of the services that policies call, generated from the .proto files beside."""
