Rails.application.routes.draw do
  root "packets#index"

  resources :packets, only: [:index, :show, :new, :create, :destroy]

  # 200 if the app booted; asks neither the database nor Redis.
  get "up", to: "rails/health#show", as: :rails_health_check
end
